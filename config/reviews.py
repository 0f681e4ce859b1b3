# Classification as generation: a review, then 正面 or 负面, with the loss on that word alone.
out_dir = "out/reviews"
ckpt_dir = "out/reviews-pretrain"
dataset = "reviews_sft"
init_from = "auto"
batch_size = 16
optimizer = "muon"
ns_steps = 3
learning_rate = 1e-3
min_lr = 1e-5
warmup_iters = 20
max_iters = 400
eval_interval = 50
eval_iters = 10
log_interval = 5
