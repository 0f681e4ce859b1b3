# Reviews instead of a novel, for config/reviews.py: what the words of shoppers are like. Minutes on two CPU cores.
out_dir = "out/reviews-pretrain"
dataset = "reviews_bpe"
init_from = "auto"
n_layer, n_head, n_embd = 4, 4, 256
block_size = 256
batch_size = 16
optimizer = "muon"
ns_steps = 3
learning_rate = 4e-3
min_lr = 4e-4
warmup_iters = 30
max_iters = 500
eval_interval = 125
eval_iters = 5
log_interval = 5
