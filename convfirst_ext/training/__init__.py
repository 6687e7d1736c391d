"""Trains a network of timm's on a folder of images or on scikit-learn's digits, on one process or many.

What a run is, is in `config`; `run.train` carries it out. The parts that do the work are timm's and PyTorch's own:
optimizers, schedules, moving average, augmentation and losses of timm, DistributedDataParallel under torchrun. What is
added is what makes a run repeatable: augmentation that depends on (seed, epoch, index) only, and checkpoints from which
a run goes on with exactly the losses of one that was never interrupted.
"""
