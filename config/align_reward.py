# A reward model: the demo's model with a head that scores answers, from pairs of answers. A minute and a half.
out_dir = "out/align-reward"
ckpt_dir = "out/demo-chat"
dataset = "sanguo_pairs"
objective = "reward"
init_from = "auto"
batch_size = 4
learning_rate = 5e-4
min_lr = 3e-5
weight_decay = 0.01
warmup_iters = 5
max_iters = 280
eval_interval = 140
eval_iters = 10
log_interval = 5
