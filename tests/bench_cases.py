"""Small workloads of the benchmark, and ceilings that are known."""

from dataclasses import replace

from jaxrnn.bench.workloads import Workload

# T, B, I, H = 5, 3, 4, 6
LSTM = Workload("tiny", "lstm", 5, 3, 4, 6, mode="forward")
ROWS = {
    "lstm": replace(LSTM, output_size=2),
    "gru": replace(LSTM, cell="gru"),
    "rnn": replace(LSTM, cell="rnn"),
    "projection": replace(LSTM, proj_size=2),
    "lengths": replace(LSTM, max_length=5),
}
LIMITS = {
    "matmul_gflop_per_s": 100.0,
    "read_gb_per_s": 20.0,
    "read_mib": 2.0,
    "copy_gb_per_s": 9.5,
}
