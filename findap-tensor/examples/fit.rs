//! Finds a matrix by gradient descent, with forward and backward passes by hand: `cargo run -p findap-tensor --example fit`

#![allow(clippy::print_stdout, reason = "a program, not a library")]

use findap_tensor::ops::adamw::{self, AdamWStep, Plan, Segment, Step};
use findap_tensor::ops::linear;
use findap_tensor::{Device, Dtype, SliceMut, Tensor, TensorError};

fn main() -> Result<(), TensorError> {
    // y = x W^T for an unknown W [2, 3] and four inputs.
    let x = filled(4, 3, |row, column| ((row * row + 2 * row * column + column) as f32).cos());
    let wanted = filled(2, 3, |row, column| row as f32 - column as f32);
    let mut target = Tensor::zeros(Dtype::F32, 4, 2);
    linear::forward(target.rows_mut(4), x.rows(4), wanted.rows(2))?;

    let tensor = |rows, columns| Tensor::zeros(Dtype::F32, rows, columns);
    let (mut weight, mut gradient) = (tensor(2, 3), tensor(2, 3));
    let (mut first_moment, mut second_moment) = (tensor(2, 3), tensor(2, 3));
    let plan = Plan::new(&Device::Cpu, vec![Segment { start: 0, state_start: 0, len: 6, weight_decay: 0.0 }])?;
    let mut y = tensor(4, 2);
    let mut loss = f32::INFINITY;
    for step in 1..=2000 {
        linear::forward(y.rows_mut(4), x.rows(4), weight.rows(2))?;
        // loss = sum (y - target)^2 / 2, so dy = y - target: it overwrites y.
        let (SliceMut::F32(dy), findap_tensor::Slice::F32(target)) = (y.slice_mut(), target.slice()) else {
            unreachable!("both were made as f32")
        };
        dy.iter_mut().zip(target).for_each(|(y, target)| *y -= target);
        loss = dy.iter().map(|d| d * d / 2.0).sum();
        // Parameter gradients add: whoever begins a step clears them.
        gradient = tensor(2, 3);
        linear::backward_weight(gradient.rows_mut(2), y.rows(4), x.rows(4))?;
        adamw::step(Step {
            params: &mut weight,
            master: None,
            grads: &gradient,
            first_moment: &mut first_moment,
            second_moment: &mut second_moment,
            plan: &plan,
            clip: None,
            rule: AdamWStep { lr: 0.02, beta1: 0.9, beta2: 0.95, eps: 1e-8, step, grad_scale: 1.0 },
            stochastic_seed: None,
        })?;
    }
    println!(
        "loss {loss:.2e}, gradient {:?}\nfound  {:.3?}\nwanted {:.3?}",
        gradient.slice(),
        weight.slice(),
        wanted.slice()
    );
    assert!(loss < 1e-3);
    Ok(())
}

fn filled(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f32) -> Tensor {
    let mut tensor = Tensor::zeros(Dtype::F32, rows, columns);
    if let SliceMut::F32(numbers) = tensor.slice_mut() {
        numbers.iter_mut().enumerate().for_each(|(at, number)| *number = value(at / columns, at % columns));
    }
    tensor
}
