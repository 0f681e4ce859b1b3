# The demo's first half: 4.3M parameters learn the novel's style in three and a half minutes on two CPU cores.
out_dir = "out/demo-pretrain"
dataset = "sanguo_bpe"
init_from = "auto"  # goes on where an interrupted run stopped
n_layer, n_head, n_embd = 4, 4, 256
block_size = 512
# One of today's decoders: transformers and llama.cpp run it as Qwen3. What each part gives: docs/experiments.md
norm, norm_eps, norm_weight = "rms", 1e-6, False
embedding_norm = True
positions = "rope"
qk_norm, attention_scale = True, 0.12
activation, gated = "silu", True
bias = False
zero_init = True
dropout = 0.1  # the book is read three times
epochs = 10.0  # at most: a short book would be known by heart
batch_size = 4
optimizer = "muon"  # reaches in 5 minutes what AdamW needs more than 10 for
ns_steps = 3
learning_rate = 4e-3
min_lr = 4e-4
warmup_iters = 30
fit_minutes = 3.5  # as many of these steps as this machine takes in that time
eval_interval = 200
eval_iters = 5
log_interval = 5
