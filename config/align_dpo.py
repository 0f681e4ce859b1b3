# DPO on the same pairs: the demo's model itself, held near to what it was. A minute on two CPU cores.
out_dir = "out/align-dpo"
ckpt_dir = "out/demo-chat"
dataset = "sanguo_pairs"
objective = "dpo"
beta = 2.0  # large: most pairs are right already, and what is right ought to stay
likelihood_weight = 1.0
init_from = "auto"
batch_size = 4
learning_rate = 2e-5  # ten times as much taught it more of the pairs, and it forgot what it refuses
min_lr = 2e-6
weight_decay = 0.01
warmup_iters = 20
max_iters = 160
eval_interval = 80
eval_iters = 10
log_interval = 5
