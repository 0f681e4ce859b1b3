# The demo's second half: the same model learns to answer questions about the book, in 6.5 minutes on two CPU cores.
out_dir = "out/demo-chat"
ckpt_dir = "out/demo-pretrain"
dataset = "sanguo_sft"
init_from = "auto"  # goes on where an interrupted run stopped, else fine-tunes ckpt_dir
batch_size = 4
optimizer = "muon"
ns_steps = 3
learning_rate = 5e-3
min_lr = 5e-5
warmup_iters = 30
fit_minutes = 6.5  # as many steps as this machine takes in that time
eval_interval = 150
eval_iters = 5
log_interval = 5
