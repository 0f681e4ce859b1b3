# The demo's first half: 4.3M parameters learn the novel's style, about 5 minutes on two CPU cores.
out_dir = "out/demo-pretrain"
dataset = "sanguo_bpe"
init_from = "auto"  # goes on where an interrupted run stopped
n_layer, n_head, n_embd = 4, 4, 256
block_size = 256
batch_size = 8
optimizer = "muon"  # reaches in 5 minutes what AdamW needs more than 10 for
ns_steps = 3
learning_rate = 4e-3
min_lr = 4e-4
warmup_iters = 30
max_iters = 560
eval_interval = 140
eval_iters = 5
log_interval = 5
