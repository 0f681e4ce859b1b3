# The report's experiment on the demo's model: few questions, read again and again, until it knows them by heart.
out_dir = "out/report-4500"
ckpt_dir = "out/demo-pretrain"
dataset = "sanguo_report"
init_from = "auto"
batch_size = 1  # a row, with about twelve questions: the report's twelve a step
learning_rate = 3e-4
min_lr = 3e-5
warmup_iters = 100
max_iters = 4500
eval_interval = 250
eval_iters = 20
log_interval = 25
