#!/bin/sh
# Installs what zerosearch is built from, by apt, where something is missing; elsewhere prints the packages.
#   deps.sh          install, or print the lists and fail
#   deps.sh --check  only look: prints what is missing, exit 1 if anything is
# A site whose modules give these without pkg-config sets ZS_SKIP_DEPS=1.

apt_packages="gcc libc6-dev make pkg-config libopenmpi-dev openmpi-bin libhdf5-openmpi-dev libopenblas-openmp-dev \
libconfig-dev libjansson-dev libpcre2-dev libutf8proc-dev libsqlite3-dev libcurl4-openssl-dev zlib1g-dev \
libcmocka-dev python3 python3-matplotlib"
dnf_packages="gcc make pkgconf-pkg-config openmpi-devel hdf5-openmpi-devel openblas-devel libconfig-devel \
jansson-devel pcre2-devel utf8proc-devel sqlite-devel libcurl-devel zlib-devel libcmocka-devel python3 python3-matplotlib"
spack_packages="openmpi hdf5+mpi openblas+openmp threads=openmp libconfig jansson pcre2 utf8proc sqlite+fts curl zlib cmocka py-matplotlib"

missing() {
    for program in "${CC:-gcc}" pkg-config mpicc mpirun python3; do
        command -v "${program%% *}" >/dev/null 2>&1 || echo "$program"
    done
    command -v pkg-config >/dev/null 2>&1 || return
    for package in libconfig jansson libpcre2-8 libutf8proc sqlite3 libcurl zlib cmocka; do
        pkg-config --exists "$package" 2>/dev/null || echo "$package"
    done
    pkg-config --exists hdf5-openmpi || pkg-config --exists hdf5-mpich || pkg-config --exists hdf5 ||
        [ -n "$HDF5_LIBS" ] || echo "parallel HDF5"
    ls /usr/lib/*/openblas-openmp/libopenblas.so >/dev/null 2>&1 || pkg-config --exists openblas ||
        pkg-config --exists openblas-openmp || pkg-config --exists openblaso || [ -n "$BLAS_LIBS" ] || echo "OpenBLAS"
}

# Only the curves of analysis/report.py: its lack stops nothing.
no_curves() {
    for python in $ZS_PYTHON /usr/bin/python3 python3; do
        "$python" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("matplotlib"))' 2>/dev/null && return 1
    done
    echo "matplotlib"
}

print_lists() {
    cat <<EOF
Install with the system's packages or the site's modules:
  apt (Debian, Ubuntu):  apt-get install $apt_packages
  dnf (Fedora, Rocky):   dnf install $dnf_packages   (then: module load mpi)
  Spack:                 spack install $spack_packages
MPI, BLAS and HDF5 of a site are pointed at by variables: make help
EOF
}

[ -z "$ZS_SKIP_DEPS" ] || exit 0
look() { lacking=$(missing | tr '\n' ' ') curves=$(no_curves); }
look
if [ -z "$lacking$curves" ]; then
    [ "$1" = --check ] || echo "nothing is missing"
    exit 0
fi
echo "missing: $lacking$curves"
[ "$1" != --check ] || exit 1

as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root="sudo"
    # Without a terminal sudo must not ask for a password.
    [ -t 0 ] || as_root="sudo -n"
fi
if command -v apt-get >/dev/null 2>&1 && { [ -z "$as_root" ] || command -v sudo >/dev/null 2>&1; }; then
    if $as_root apt-get update -q &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $apt_packages; then
        look
        [ -n "$lacking$curves" ] || exit 0
        echo "still missing: $lacking$curves"
    fi
fi
if [ -z "$lacking" ]; then
    echo "going on without matplotlib: reports have no curves"
    exit 0
fi
print_lists
exit 1
