//! The launch of the optimizer.

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;

use super::{AdamWStep, Segment, check_disjoint};
use crate::check;
use crate::cuda::operand::{array, one_of, to_u32};
use crate::cuda::{Arg, Launch, Needs, Operand, Source};
use crate::dtype::Dtype;
use crate::error::KernelError;

/// The kernels of this family.
pub static SOURCE: Source = Source { file: "adamw/kernel.cu", text: include_str!("kernel.cu"), needs: Needs::Ampere };

/// Numbers of one block: eight a thread, four times.
const TILE: usize = 8192;

/// The table that the kernel walks through, as bytes for the executor's memory: made once for an arena.
#[derive(Clone, Debug, PartialEq)]
pub struct Tiles {
    /// 24 bytes a tile: `start: u64`, `state_start: u64`, `len: u32`, `weight_decay: f32`.
    pub bytes: Vec<u8>,
    /// How many.
    pub count: usize,
    /// One past the last parameter that is updated.
    pub end: usize,
    /// One past the last gradient that is read.
    pub state_end: usize,
}

/// Cuts segments into tiles.
///
/// # Errors
/// [`KernelError::BadArgument`] for segments that overlap: two blocks would update one element.
pub fn tiles(segments: &[Segment]) -> Result<Tiles, KernelError> {
    check_disjoint("adamw::tiles", segments)?;
    let (mut bytes, mut count, mut end, mut state_end) = (Vec::new(), 0, 0, 0);
    for segment in segments {
        for offset in (0..segment.len).step_by(TILE) {
            let len = TILE.min(segment.len - offset) as u32;
            for start in [segment.start, segment.state_start] {
                bytes.extend(((start + offset) as u64).to_ne_bytes());
            }
            bytes.extend(len.to_ne_bytes());
            bytes.extend((segment.weight_decay as f32).to_ne_bytes());
            count += 1;
        }
        end = end.max(segment.start + segment.len);
        state_end = state_end.max(segment.state_start + segment.len);
    }
    Ok(Tiles { bytes, count, end, state_end })
}

/// The arguments of [`step`], as in [`super::Step`].
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// `[n]`, updated.
    pub params: Operand,
    /// `[m]` f32, updated: the trained parameters at full precision, of which `params` are the rounding.
    pub master: Option<Operand>,
    /// `[m]`.
    pub grads: Operand,
    /// `[m]`, updated.
    pub first_moment: Operand,
    /// `[m]`, updated.
    pub second_moment: Operand,
    /// Which parameters are updated.
    pub tiles: &'a Tiles,
    /// The address of `tiles.bytes` in the executor's memory; a multiple of 16.
    pub tiles_address: u64,
    /// What the gradients are clipped by and a step is skipped for. Without it nothing is clipped or skipped.
    pub norm: Option<Norm>,
    /// The numbers of this step.
    pub rule: AdamWStep,
    /// Whether bf16 numbers without a master copy are rounded stochastically, and by which seed; else to nearest.
    pub stochastic_seed: Option<u64>,
}

/// The norm of all gradients and the loss they are of, on the device.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// The address of one f64: the sum of squares before `grad_scale`.
    pub squares: u64,
    /// The address of one f64, the loss, or 0.
    pub loss: u64,
    /// The address of one `u32`, which becomes 1 with a step whose sum of squares or loss is not finite. That step is skipped, and so is every step
    /// while it is not 0: those that were queued before the host could know.
    pub skipped: u64,
    /// The norm that gradients are clipped to, after `grad_scale`; `None` does not clip.
    pub max_norm: Option<f64>,
}

/// Makes one optimizer step.
///
/// # Errors
/// [`KernelError::ShapeMismatch`] if gradients and moments differ in length or a tile reaches past an arena; [`KernelError::BadArgument`] for
/// `step` 0, an empty table or an address that is no multiple of 16; [`KernelError::UnsupportedDtype`].
pub fn step(args: &Step<'_>) -> Result<Launch, KernelError> {
    const OP: &str = "adamw::step";
    let Step { params, master, grads, first_moment, second_moment, tiles, norm, rule, .. } = *args;
    array(OP, "params", &params, params.len)?;
    for (arg, operand) in [("grads", grads), ("first_moment", first_moment), ("second_moment", second_moment)] {
        array(OP, arg, &operand, grads.len)?;
    }
    if let Some(master) = master {
        array(OP, "master", &master, grads.len)?;
        one_of(OP, [("master", master.dtype)], [[Dtype::F32]])?;
    }
    check::at_least(OP, "params", params.len, tiles.end)?;
    check::at_least(OP, "grads", grads.len, tiles.state_end)?;
    check::holds(OP, "tiles", tiles.count as f64, tiles.count > 0, "at least 1")?;
    check::holds(OP, "step", rule.step as f64, rule.step > 0, "at least 1")?;
    const F: Dtype = Dtype::F32;
    const B: Dtype = Dtype::Bf16;
    let formats = [[F, F, F, F], [B, B, B, B], [B, B, F, F], [B, F, B, B], [B, F, F, F]];
    let kernels = [
        "adamw_f32_f32_f32",
        "adamw_bf16_bf16_bf16",
        "adamw_bf16_bf16_f32",
        "adamw_bf16_f32_bf16",
        "adamw_bf16_f32_f32",
    ];
    let dtypes = [
        ("params", params.dtype),
        ("grads", grads.dtype),
        ("first_moment", first_moment.dtype),
        ("second_moment", second_moment.dtype),
    ];
    let format = one_of(OP, dtypes, formats)?;
    let number = |x: f64| Arg::F32(x as f32);
    Ok(Launch {
        source: &SOURCE,
        kernel: kernels[format],
        grid: [to_u32(OP, "tiles", tiles.count)?, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: vec![
            params.arg(),
            Arg::Address(master.map_or(0, |master| master.address)),
            grads.arg(),
            first_moment.arg(),
            second_moment.arg(),
            Arg::Address(args.tiles_address),
            Arg::Address(norm.map_or(0, |norm| norm.squares)),
            Arg::Address(norm.map_or(0, |norm| norm.loss)),
            Arg::Address(norm.map_or(0, |norm| norm.skipped)),
            number(rule.lr),
            number(1.0 - rule.beta1),
            number(rule.beta2),
            number(1.0 - rule.beta2),
            number(rule.eps),
            number(rule.bias1()),
            number(rule.bias2_root()),
            number(rule.grad_scale),
            Arg::F64(norm.and_then(|norm| norm.max_norm).unwrap_or(0.0)),
            Arg::U32(u32::from(args.stochastic_seed.is_some())),
            Arg::U64(rule.step),
            Arg::U64(args.stochastic_seed.unwrap_or(0)),
        ],
    })
}
