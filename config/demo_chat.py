# The demo's second half: the same model learns to answer questions about the book, about 6 minutes on two CPU cores.
out_dir = "out/demo-chat"
ckpt_dir = "out/demo-pretrain"
dataset = "sanguo_sft"
init_from = "auto"  # goes on where an interrupted run stopped, else fine-tunes ckpt_dir
batch_size = 16
optimizer = "muon"
learning_rate = 5e-3
min_lr = 5e-5
warmup_iters = 20
max_iters = 420
eval_interval = 140
eval_iters = 5
log_interval = 5
