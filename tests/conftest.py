"""Two threads that wait for a busy core cost more than they bring: every test uses one."""

import torch

torch.set_num_threads(1)
