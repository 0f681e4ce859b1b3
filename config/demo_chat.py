# The demo's second half: the same model learns to answer questions about the book, in five minutes on two CPU cores.
out_dir = "out/demo-chat"
ckpt_dir = "out/demo-pretrain"
dataset = "sanguo_sft"
init_from = "auto"  # goes on where an interrupted run stopped, else fine-tunes ckpt_dir
batch_size = 8
optimizer = "muon"
learning_rate = 5e-3
min_lr = 5e-5
warmup_iters = 30
fit_minutes = 5.0  # as many steps as this machine takes in that time
eval_interval = 150
eval_iters = 5
log_interval = 5
