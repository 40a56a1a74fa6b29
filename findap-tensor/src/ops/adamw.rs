//! AdamW over a whole arena, on the CPU or a device.

use findap_kernels::KernelError;
use findap_kernels::adamw::{self, cuda};
pub use findap_kernels::adamw::{AdamWStep, Segment};

use crate::device::{Device, Memory};
use crate::error::TensorError;
use crate::ops::reduce;
use crate::step_stats::StepStats;
use crate::tensor::Tensor;

/// The list of parameters that a step updates, in the memory of the device that reads it.
#[derive(Debug)]
pub struct Plan {
    segments: Vec<Segment>,
    /// The segments for a master copy, whose numbers lie as the gradients do.
    of_master: Vec<Segment>,
    placed: Option<(cuda::Tiles, Memory)>,
}

impl Plan {
    /// Makes a plan for parameters on `device`.
    ///
    /// # Errors
    /// On a device, [`KernelError::BadArgument`] for a segment that starts at no multiple of 8 or overlaps another, which the step
    /// refuses on the CPU; [`TensorError::OutOfMemory`], [`TensorError::Cuda`].
    pub fn new(device: &Device, segments: Vec<Segment>) -> Result<Plan, TensorError> {
        let of_master = |segment: &Segment| Segment { start: segment.state_start, ..*segment };
        let of_master = segments.iter().map(of_master).collect();
        let Device::Cuda(device) = device else { return Ok(Plan { segments, of_master, placed: None }) };
        let mut starts = segments.iter().flat_map(|segment| [segment.start, segment.state_start]);
        if let Some(bad) = starts.find(|start| !start.is_multiple_of(8)) {
            let (op, arg, want) = ("adamw::step", "segments", "a multiple of 8 on CUDA");
            return Err(KernelError::BadArgument { op, arg, got: bad as f64, want }.into());
        }
        let tiles = cuda::tiles(&segments)?;
        let mut memory = device.allocate("the optimizer's tiles", tiles.bytes.len())?;
        memory.write(0, &tiles.bytes)?;
        Ok(Plan { segments, of_master, placed: Some((tiles, memory)) })
    }
}

/// The arguments of [`step`]; all tensors but the parameters have one length.
#[derive(Debug)]
pub struct Step<'a> {
    /// Updated.
    pub params: &'a mut Tensor,
    /// For `params` in bf16: the trained parameters in f32, of which `params` are the rounding.
    pub master: Option<&'a mut Tensor>,
    /// The gradients.
    pub grads: &'a Tensor,
    /// Updated: the running mean of the gradients.
    pub first_moment: &'a mut Tensor,
    /// Updated: the running mean of their squares.
    pub second_moment: &'a mut Tensor,
    /// The parameters that are updated; the others are frozen.
    pub plan: &'a Plan,
    /// The clipping, and the condition under which the step is skipped.
    pub clip: Option<Clip<'a>>,
    /// The numbers of this step.
    pub rule: AdamWStep,
    /// Seed of the stochastic rounding of parameters and moments in bf16 on a device, a function of place, step and seed; `None`
    /// rounds to nearest. Parameters with a master copy are always rounded to nearest.
    pub stochastic_seed: Option<u64>,
}

/// Clips the gradients to a norm, and skips a step whose loss or gradients are not finite.
#[derive(Clone, Copy, Debug)]
pub struct Clip<'a> {
    /// The loss and the sum of squares of all gradients. Once a step on a device was skipped, all later steps with these statistics
    /// are skipped, too: they were queued before the host could know.
    pub stats: &'a StepStats,
    /// Maximum gradient norm, as in `torch.nn.utils.clip_grad_norm_`.
    pub max_norm: f64,
}

/// Makes one optimizer step. Does not wait for a device.
///
/// # Errors
/// As [`adamw::step`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn step(args: Step<'_>) -> Result<(), TensorError> {
    let Step { params, master, grads, first_moment, second_moment, plan, clip, mut rule, stochastic_seed } = args;
    if let Some(device) = params.all().cuda().cloned() {
        let (device, params) = (&device, params.all_mut());
        let Some((tiles, memory)) = plan.placed.as_ref().filter(|(_, memory)| memory.cuda().is(device)) else {
            return Err(device.is_missing());
        };
        let norm = |clip: Clip<'_>| {
            let sums = clip.stats.on(device)?;
            let (squares, loss) = (sums.squares().address, sums.loss().address);
            Ok::<_, TensorError>(cuda::Norm { squares, loss, skipped: sums.skipped(), max_norm: Some(clip.max_norm) })
        };
        return device.run(&[cuda::step(&cuda::Step {
            params: params.on(device)?,
            master: master.map(|master| master.all().on(device)).transpose()?,
            grads: grads.all().on(device)?,
            first_moment: first_moment.all().on(device)?,
            second_moment: second_moment.all().on(device)?,
            tiles,
            tiles_address: memory.address(),
            norm: clip.map(norm).transpose()?,
            rule,
            stochastic_seed,
        })?]);
    }
    if let Some(Clip { stats, max_norm }) = clip {
        let sums = stats.open();
        if !sums.are_finite() {
            return Ok(());
        }
        rule.grad_scale *= (max_norm / (rule.grad_scale * sums.norm() + 1e-6)).min(1.0);
    }
    let grads = grads.all().host()?;
    let (first_moment, second_moment) = (first_moment.all_mut().host()?, second_moment.all_mut().host()?);
    let Some(master) = master else {
        let (params, segments) = (params.all_mut().host()?, &plan.segments);
        return Ok(adamw::step(adamw::Step { params, grads, first_moment, second_moment, segments, rule })?);
    };
    let (exact, segments) = (master.all_mut().host()?, &plan.of_master);
    adamw::step(adamw::Step { params: exact, grads, first_moment, second_moment, segments, rule })?;
    for Segment { start, state_start, len, .. } in &plan.segments {
        reduce::cast_part(params, *start, master, *state_start, *len)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    #[cfg(feature = "emulator")]
    #[test]
    fn segments_that_overlap_make_no_plan_for_a_device() {
        let device = Device::emulated(crate::EmulatorOptions::PLAIN);
        let first = Segment { start: 0, state_start: 0, len: 20, weight_decay: 0.1 };
        let plan = |start, state_start| Plan::new(&device, vec![first, Segment { start, state_start, ..first }]);
        for [start, state_start] in [[16, 24], [24, 16], [0, 0]] {
            let error = plan(start, state_start).unwrap_err().to_string();
            assert!(error.contains("overlaps no other"), "{error}");
        }
        plan(24, 24).unwrap();
    }

    #[test]
    fn parameters_in_bf16_are_the_rounding_of_those_in_f32() {
        let values: Vec<f64> = (0..50).map(|i| 0.01 * f64::from(i) - 0.2).collect();
        let filled = |dtype| {
            let mut tensor = Tensor::zeros(dtype, 1, values.len());
            tensor.slice_mut().copy_from_f64(&values);
            tensor
        };
        let plan =
            Plan::new(&Device::Cpu, vec![Segment { start: 0, state_start: 0, len: 40, weight_decay: 0.1 }]).unwrap();
        let run = |params: &mut Tensor, mut master: Option<&mut Tensor>| {
            let (mut first, mut second) = (Tensor::zeros(Dtype::F32, 1, 50), Tensor::zeros(Dtype::F32, 1, 50));
            for number in 1..=3 {
                step(Step {
                    params,
                    master: master.as_deref_mut(),
                    grads: &filled(Dtype::F32),
                    first_moment: &mut first,
                    second_moment: &mut second,
                    plan: &plan,
                    clip: None,
                    rule: AdamWStep { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: number, grad_scale: 0.5 },
                    stochastic_seed: None,
                })
                .unwrap();
            }
        };
        let (mut exact, mut rounded, mut master) = (filled(Dtype::F32), filled(Dtype::Bf16), filled(Dtype::F32));
        run(&mut exact, None);
        run(&mut rounded, Some(&mut master));
        assert_eq!(master.slice().to_f64_vec(), exact.slice().to_f64_vec());
        let mut want = Tensor::zeros(Dtype::Bf16, 1, 50);
        want.slice_mut().copy_from_f64(&exact.slice().to_f64_vec());
        assert_eq!(rounded.slice().to_f64_vec(), want.slice().to_f64_vec());
    }
}
