mod golden;
mod gradients;
