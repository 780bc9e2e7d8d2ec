#include "schema.h"

#include <stddef.h>

#define INT(name, value, min, max, help)                                                                     \
    { name, ZS_KEY_INT, value, min, max, "", NULL, help }
#define FLOAT(name, value, min, max, help)                                                                   \
    { name, ZS_KEY_FLOAT, value, min, max, "", NULL, help }
#define BOOL(name, value, help)                                                                              \
    { name, ZS_KEY_BOOL, value, 0, 1, "", NULL, help }
#define STRING(name, value, help)                                                                            \
    { name, ZS_KEY_STRING, 0, 0, 0, value, NULL, help }
#define CHOICE(name, value, choices, help)                                                                   \
    { name, ZS_KEY_STRING, 0, 0, 0, value, choices, help }
#define STRINGS(name, help)                                                                                  \
    { name, ZS_KEY_STRINGS, 0, 0, 0, "", NULL, help }

/* Keys of one group stand together: the resolved settings are written in this order. */
/* clang-format off */
const zs_key zs_schema[] = {
    INT("seed", 1, 0, 9007199254740992, "seed of every random draw of the run"),
    CHOICE("log_level", "info", "error|warning|info|debug", "how much is said on stderr"),

    STRING("run.folder", "", "where the run writes metrics, episodes, checkpoints and the report"),
    BOOL("run.replace", 0, "start anew in a folder that holds a run already, removing its checkpoints"),

    CHOICE("groups.layout", "colocated", "colocated|split|auto", "how ranks are divided over the roles: every rank plays all, each plays one, or by the number of ranks"),
    INT("groups.simulators", 1, 0, 1000000, "simulator ranks of a pod (auto: their proportion)"),
    INT("groups.rollouts", 1, 1, 1000000, "rollout ranks of a pod (auto: their proportion)"),
    INT("groups.learners", 1, 1, 1000000, "learner ranks of a pod (auto: their proportion)"),
    INT("groups.pods", 1, 1, 1000000, "pods: sets of ranks among which searches and episodes are exchanged"),
    INT("groups.propose_every", 10, 0, 1000000000, "steps between looks at whether another split of the ranks would save a sixth of the time or more, which the log then says; 0: none"),
    INT("groups.settle_steps", 3, 0, 1000000000, "auto, on 3 ranks or more: steps, after a first that warms up, by which the split of the ranks is settled; 0: it stays as the proportions say"),
    FLOAT("groups.deadline", 600, 1, 1e6, "seconds that any wait for another rank may take"),

    STRING("model.policy", "", "Hugging Face folder of the policy"),
    STRING("model.reference", "", "Hugging Face folder of the KL reference; empty: the policy as it starts"),
    STRING("model.simulator", "", "Hugging Face folder of the search simulator"),
    CHOICE("model.chat", "auto", "auto|none|chatml|llama3|llama3.1", "chat format of the policy's prompt (llama3.1: 3.1 to 3.3, tells the date); auto: as the folder's chat template says"),
    CHOICE("model.simulator_chat", "auto", "auto|none|chatml|llama3|llama3.1", "chat format of the simulator's prompt"),
    STRING("model.system", "", "system message of the policy's prompt; empty: the chat template's own"),
    STRING("model.simulator_system", "", "system message of the simulator's prompt; empty: the chat template's own"),
    STRING("model.chat_date", "26 Jul 2024", "date that llama3.1 tells the model; fixed, so that runs repeat"),

    CHOICE("model.reference_dtype", "auto", "auto|f32|bf16", "how the KL reference's weights are kept; auto: bf16 if its folder holds bf16"),
    CHOICE("model.simulator_dtype", "auto", "auto|f32|bf16", "how the simulator's weights are kept; auto: bf16 if its folder holds bf16"),
    CHOICE("model.read", "all", "all|node|root", "who reads model folders: every rank what it keeps, one rank of a node for the others there, or one rank for all"),

    STRINGS("data.train", "QA files to train on (JSON lines, gzip accepted)"),
    STRINGS("data.eval", "QA files to evaluate on"),
    STRING("data.corpus", "", "passages of the corpus engine (JSON lines or .tsv, gzip accepted)"),
    STRING("data.corpus_index", "", "index file of the corpus (zerosearch index); empty: CORPUS.fts5, made when it is missing"),

    CHOICE("search.engine", "simulate_sft", "simulate_sft|simulate_prompt|openai|self|corpus|http|google|none", "what answers the policy's queries in training; self: the policy itself"),
    INT("search.top_k", 5, 1, 1000, "documents in one observation"),
    INT("search.observation_tokens", 500, 1, 1000000, "tokens that one observation may have"),
    STRING("search.useful_template", "", "file of the prompt for useful documents; empty: the engine's own"),
    STRING("search.noisy_template", "", "file of the prompt for noisy documents; empty: the engine's own"),
    INT("search.words", 30, 1, 10000, "words asked for in each simulated document"),
    FLOAT("search.temperature", 0.8, 0, 100, "temperature of the simulator; 0: greedy"),
    FLOAT("search.top_p", 1.0, 1e-6, 1, "nucleus of the simulator's sampling; 1: all tokens"),
    INT("search.max_new_tokens", 500, 1, 1000000, "tokens that the simulator may write for a query"),
    INT("search.max_batch", 32, 1, 100000, "queries that the simulator writes at once"),
    INT("search.max_length", 1024, 2, 10000000, "tokens of a simulator's prompt and reply together"),
    INT("search.cache_tokens", 0, 0, 1e12, "tokens in the simulator's KV cache; 0: max_batch x max_length"),
    CHOICE("search.cache_dtype", "f32", "f32|bf16", "precision of the simulator's keys and values; bf16 is half the memory and half the reading"),

    STRING("search.http_url", "", "retriever of the engine http; without a path /retrieve is meant"),
    CHOICE("search.http_protocol", "auto", "auto|wiki|search_r1", "how it is asked: {query, top_k}, {queries, topk, return_scores}, or one request that holds both"),
    INT("search.http_batch", 16, 1, 10000, "queries in one request (search_r1)"),
    STRING("search.http_key_env", "", "environment variable with the retriever's key, sent as a bearer token; empty: none"),
    STRING("search.google_url", "https://serpapi.com", "SerpAPI-compatible server of the engine google"),
    STRING("search.google_key_env", "SERPAPI_API_KEY", "environment variable with its key"),
    STRING("search.openai_url", "", "OpenAI-compatible server of the engine openai, which writes documents as a simulator does"),
    STRING("search.openai_model", "", "model that it is asked for"),
    CHOICE("search.openai_api", "chat", "chat|completions", "/v1/chat/completions or /v1/completions"),
    STRING("search.openai_key_env", "OPENAI_API_KEY", "environment variable with its key; a server without keys needs none"),
    STRING("search.cache", "", "SQLite file that keeps the answers of http, google and openai, shared by the ranks of a node; empty: none"),
    FLOAT("search.connect_timeout", 5, 0.001, 1e5, "seconds in which a service must take the connection"),
    FLOAT("search.timeout", 30, 0.001, 1e5, "seconds in which its answer must be whole"),
    INT("search.retries", 3, 0, 100, "further attempts after a lost connection, a time-out, status 429 or 5xx"),
    FLOAT("search.backoff", 0.5, 0, 1e4, "seconds before the first further attempt, doubled for each"),
    INT("search.concurrency", 16, 1, 10000, "requests that one rank has out at once"),
    INT("search.max_response", 4194304, 1, 1e12, "bytes that an answer may have"),
    INT("search.max_failures", 64, 1, 1000000000, "searches that may fail in a row before the run stops"),
    BOOL("search.tls_verify", 1, "check the certificate of an https service"),
    STRING("search.tls_ca", "", "file of the certificates to trust; empty: the system's"),
    BOOL("search.lockstep", 0, "hold answers until a rank has nothing to decode, then wait for all: a service that answers the same gives the same bits"),

    CHOICE("curriculum.kind", "exponential", "exponential|linear|step|constant|reversed|adaptive", "how the probability of a noisy reply goes from start to end; constant: it stays at start; reversed: the exponential backwards, from end to start; adaptive: it follows the reward between the two"),
    CHOICE("curriculum.draw", "turn", "turn|query|episode|question", "which searches share one draw of useful or noisy: none; those of one question with the same query text; an episode's; those of all samples of a question"),
    FLOAT("curriculum.start", 0.0, 0, 1, "probability of a noisy reply at the first step"),
    FLOAT("curriculum.end", 0.5, 0, 1, "probability of a noisy reply at the last step"),
    FLOAT("curriculum.base", 4.0, 1e-6, 1e6, "base of the exponential between them; 1: linear"),
    INT("curriculum.stages", 4, 1, 1000000, "step: stages of equal length from start to end"),
    FLOAT("curriculum.target", 0.5, -1e6, 1e6, "adaptive: running reward above which noise rises, below which it falls"),
    FLOAT("curriculum.rate", 0.05, 0, 1, "adaptive: the most that the probability moves in a step"),
    FLOAT("curriculum.sensitivity", 2.0, 0, 1e6, "adaptive: how steeply the move grows with the reward's distance from the target"),
    FLOAT("curriculum.smoothing", 0.8, 0, 0.999999, "adaptive: weight of the past in the running reward"),

    INT("rollout.questions", 64, 1, 10000000, "questions of a step"),
    INT("rollout.samples", 5, 1, 100000, "episodes of one question: the group whose rewards are compared"),
    FLOAT("rollout.temperature", 1.0, 0, 100, "temperature of the policy in training; 0: greedy"),
    INT("rollout.top_k", 0, 0, 10000000, "tokens that sampling chooses from; 0: all"),
    FLOAT("rollout.top_p", 1.0, 1e-6, 1, "nucleus that sampling chooses from; 1: all tokens"),
    CHOICE("rollout.dtype", "f32", "f32|bf16", "precision of the policy's weights in rollouts; bf16 is half the memory and half the broadcast, the learner's stay f32"),
    INT("rollout.max_turns", 5, 1, 10000, "turns in which the policy may search; one last turn follows that must answer"),
    INT("rollout.response_tokens", 500, 1, 10000000, "tokens that the policy may write in one turn"),
    INT("rollout.context_tokens", 4096, 2, 10000000, "tokens of a whole episode, prompt and documents included"),
    INT("rollout.max_batch", 64, 1, 100000, "episodes that a rollout rank writes at once"),
    INT("rollout.cache_tokens", 0, 0, 1e12, "tokens in a rollout rank's KV cache; 0: max_batch x context_tokens"),
    CHOICE("rollout.cache_dtype", "f32", "f32|bf16", "precision of the policy's keys and values in rollouts; bf16 is half the memory and half the reading, and learn.importance_cap corrects for it"),
    INT("rollout.prefill_chunk", 512, 1, 1000000, "prompt tokens that are read at once"),
    INT("rollout.round_steps", 8, 1, 1000000, "decode steps between two rounds of the search exchange"),
    INT("rollout.staleness", 0, 0, 1, "1: rollouts play the next step's episodes while learners update, on weights one update old; importance weights correct for it"),
    CHOICE("rollout.method", "search", "search|direct|cot|rag", "how a question is put: to a search agent, answered at once, after a chain of thought, or with the documents of one retrieval in the prompt"),
    STRING("rollout.prompt_template", "prompt", "prompt of the policy: a name in configs/prompts or a file"),
    STRING("rollout.direct_template", "direct", "prompt of the method direct"),
    STRING("rollout.cot_template", "cot", "prompt of the method cot"),
    STRING("rollout.rag_template", "rag", "prompt of the method rag, with {documents}"),
    STRING("rollout.correction_template", "correction", "what follows an action that is neither search nor answer"),
    STRING("rollout.last_turn_template", "last_turn", "what asks for the answer after the last turn"),

    CHOICE("learn.algorithm", "grpo", "grpo", "policy-gradient method"),
    INT("learn.steps", 203, 0, 1000000000, "policy updates of the run"),
    FLOAT("learn.learning_rate", 1e-6, 0, 10, "peak learning rate"),
    CHOICE("learn.schedule", "constant", "constant|linear|cosine", "how the learning rate falls after warm-up"),
    INT("learn.warmup_steps", 0, 0, 1000000000, "steps over which the learning rate rises from 0"),
    FLOAT("learn.final_fraction", 0.0, 0, 1, "learning rate at the end as a fraction of the peak"),
    FLOAT("learn.decay_from", 0.0, 0, 1, "fraction of the steps after which the decay begins"),
    FLOAT("learn.beta1", 0.9, 0, 0.999999, "AdamW: decay of the first moment"),
    FLOAT("learn.beta2", 0.999, 0, 0.99999999, "AdamW: decay of the second moment"),
    FLOAT("learn.eps", 1e-8, 1e-30, 1, "AdamW: term added to the root of the second moment"),
    FLOAT("learn.weight_decay", 0.0, 0, 10, "AdamW: decoupled weight decay"),
    FLOAT("learn.clip_gradient", 1.0, 0, 1e30, "largest gradient norm; 0: no clipping"),
    FLOAT("learn.clip_range", 0.2, 0, 1e30, "how far the probability ratio may leave 1"),
    FLOAT("learn.importance_cap", 2.0, 0, 1e30, "rollouts or their cache in bf16, or a step ahead: each token's loss is weighted by its probability under the learner over that under the rollout, at most this; 0: not weighted"),
    FLOAT("learn.kl_coef", 0.001, 0, 1e6, "weight of the KL to the reference; 0: no reference is run"),
    CHOICE("learn.kl_in", "loss", "loss|reward", "where the KL stands"),
    CHOICE("learn.kl_type", "k3", "k1|k2|k3", "estimator of the KL in the loss"),
    INT("learn.epochs", 1, 1, 1000, "passes over the episodes of a step"),
    INT("learn.minibatches", 1, 1, 100000, "updates of one pass"),
    INT("learn.micro_tokens", 8192, 1, 1e12, "tokens of a forward and backward pass on one learner"),
    BOOL("learn.mask_documents", 1, "leave tokens that the policy did not write out of the loss"),
    BOOL("learn.recompute", 0, "recompute activations in backward: less memory, a third more time"),
    INT("learn.bucket_params", 4194304, 1, 1e12, "parameters in one bucket of gradient reduction and weight broadcast"),
    BOOL("learn.normalize_advantage", 1, "divide the advantage by the spread of its group's rewards"),

    CHOICE("reward.metric", "f1", "f1|em|cover_em", "what the answer earns"),
    FLOAT("reward.format", 0.0, -1e6, 1e6, "weight of a valid form: every turn well-formed tags, no invalid action, an answer; 0 as in the paper"),
    FLOAT("reward.turn_cost", 0.0, -1e6, 1e6, "price of each search and each invalid action"),
    FLOAT("reward.retrieval", 0.0, -1e6, 1e6, "weight of having met documents that hold a golden answer"),

    INT("eval.every", 0, 0, 1000000000, "steps between evaluations in training; 0: none"),
    CHOICE("eval.engine", "corpus", "corpus|http|google|none|simulate_sft|simulate_prompt|openai|self", "what answers the queries of an evaluation"),
    STRINGS("eval.methods", "methods that eval compares, each on every set: search, direct, cot, rag; none: rollout.method"),
    INT("eval.questions", 0, 0, 1000000000, "questions of each file that are evaluated; 0: all"),
    FLOAT("eval.temperature", 0.0, 0, 100, "temperature of an evaluation; 0: greedy"),

    INT("checkpoint.every", 50, 0, 1000000000, "steps between checkpoints; 0: only at the end"),
    INT("checkpoint.keep", 2, 1, 1000000, "newest checkpoints that are kept"),
    BOOL("checkpoint.background", 1, "learners copy what they write, and training goes on meanwhile; false saves the copy's memory"),
    BOOL("checkpoint.export", 1, "write a Hugging Face folder of the policy at the end"),

    STRINGS("sft.data", "files to tune on: prompt and completion, or text (JSON lines, gzip accepted)"),
    INT("sft.steps", 0, 0, 1000000000, "updates; 0: as many as the epochs need"),
    INT("sft.epochs", 1, 1, 1000000, "passes over the data"),
    INT("sft.batch_tokens", 4096, 1, 1e12, "tokens of one update, over all learners"),
    INT("sft.max_length", 1024, 2, 10000000, "tokens at which an example is cut"),
    BOOL("sft.shuffle", 1, "draw a new order of the examples for each epoch"),
};
/* clang-format on */

const int zs_schema_count = sizeof zs_schema / sizeof *zs_schema;
