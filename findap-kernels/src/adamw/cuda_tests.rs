use super::super as cpu;
use super::*;
use crate::cuda::tests::cases::{Array, IndexArray, assert_follows, numbers, on_every_executor, rounded, run};
use crate::cuda::{Buffer, Executor};
use crate::tolerance::floor;

const N: usize = 20_011;

fn segments() -> Vec<Segment> {
    vec![
        Segment { start: 0, state_start: 0, len: 17, weight_decay: 0.1 },
        Segment { start: 24, state_start: 24, len: 9000, weight_decay: 0.0 },
        Segment { start: 9031, state_start: 9031, len: N - 9031 - 5, weight_decay: 0.3 }, // neither end at a multiple of 8
    ]
}

#[derive(Clone, Copy)]
struct Case {
    /// The formats of parameters, gradients and moments.
    dtypes: [Dtype; 3],
    has_master: bool,
    max_norm: Option<f64>,
    seed: Option<u64>,
}

/// Parameters, gradients, moments, as the formats store them.
fn inputs(case: &Case) -> [Vec<f64>; 4] {
    let [params, grads, moments] = case.dtypes;
    let second: Vec<f64> = numbers(N, 4).iter().map(|x| x * x).collect();
    let params = if case.has_master { Dtype::F32 } else { params };
    [
        rounded(&numbers(N, 1), params),
        rounded(&numbers(N, 2), grads),
        rounded(&numbers(N, 3), moments),
        rounded(&second, moments),
    ]
}

const GRAD_SCALE: f64 = 0.25;

/// Parameters and moments after the step by the CPU.
fn on_cpu<T: crate::Real>(inputs: &[Vec<f64>; 4], grad_scale: f64) -> [Vec<f64>; 3]
where
    for<'a> crate::Slice<'a>: From<&'a [T]>,
    for<'a> crate::SliceMut<'a>: From<&'a mut [T]>,
{
    let [mut p, g, mut m, mut v] = inputs.each_ref().map(|x| x.iter().map(|&x| T::from_f64(x)).collect::<Vec<T>>());
    cpu::step(cpu::Step {
        params: p.as_mut_slice().into(),
        grads: g.as_slice().into(),
        first_moment: m.as_mut_slice().into(),
        second_moment: v.as_mut_slice().into(),
        segments: &segments(),
        rule: AdamWStep { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 3, grad_scale },
    })
    .unwrap();
    [p, m, v].map(|x| x.iter().map(|x| x.to_f64()).collect())
}

/// Parameters, master copy (or parameters), moments after the step, and the count of skipped steps.
fn on_executor(executor: &dyn Executor, case: &Case, inputs: &[Vec<f64>; 4], squares: f64) -> ([Vec<f64>; 4], u32) {
    after_a_step(executor, case, &segments(), inputs, [squares, 2.5], 0)
}

/// What [`on_executor`] says, for other segments and another loss, and with `skipped` steps counted before.
fn after_a_step(
    executor: &dyn Executor,
    case: &Case,
    segments: &[Segment],
    inputs: &[Vec<f64>; 4],
    [squares, loss]: [f64; 2],
    skipped: u32,
) -> ([Vec<f64>; 4], u32) {
    let [params_dtype, grads_dtype, moments_dtype] = case.dtypes;
    let [p, g, m, v] = inputs;
    let params = Array::new(executor, p, params_dtype);
    let master = case.has_master.then(|| Array::new(executor, &beside_gradients(p, g.len(), segments), Dtype::F32));
    let grads = Array::new(executor, g, grads_dtype);
    let (first, second) = (Array::new(executor, m, moments_dtype), Array::new(executor, v, moments_dtype));
    let tiles = tiles(segments).unwrap();
    let table = Buffer::holding(executor, &tiles.bytes).unwrap();
    let [squares, loss] = [squares, loss].map(|x| Array::new(executor, &[x], Dtype::F64));
    let skipped = IndexArray::new(executor, &[skipped]);
    let norm = Norm {
        squares: squares.operand().address,
        loss: loss.operand().address,
        skipped: skipped.indices().address,
        max_norm: case.max_norm,
    };
    let args = Step {
        params: params.operand(),
        master: master.as_ref().map(Array::operand),
        grads: grads.operand(),
        first_moment: first.operand(),
        second_moment: second.operand(),
        tiles: &tiles,
        tiles_address: table.address(),
        norm: Some(norm),
        rule: AdamWStep { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 3, grad_scale: GRAD_SCALE },
        stochastic_seed: case.seed,
    };
    run(executor, &[step(&args).unwrap()]);
    let precise = master.as_ref().unwrap_or(&params).read();
    ([params.read(), precise, first.read(), second.read()], skipped.read()[0])
}

/// Numbers that lie as the parameters do, moved to where the gradients of `segments` lie, of which there are `len`.
fn beside_gradients(params: &[f64], len: usize, segments: &[Segment]) -> Vec<f64> {
    let mut placed = params.to_vec();
    placed.resize(len, 0.25);
    for s in segments {
        placed[s.state_start..][..s.len].copy_from_slice(&params[s.start..][..s.len]);
    }
    placed
}

fn check(case: Case) {
    let inputs = inputs(&case);
    let squares: f64 = inputs[1].iter().map(|g| g * g).sum();
    let clip = case.max_norm.map_or(1.0, |max| (max / (squares.sqrt() * GRAD_SCALE + 1e-6)).min(1.0));
    let truth = on_cpu::<f64>(&inputs, GRAD_SCALE * clip);
    let naive = on_cpu::<f32>(&inputs, GRAD_SCALE * clip);
    let [params_dtype, _, moments_dtype] = case.dtypes;
    let family = if params_dtype == Dtype::Bf16 { "adamw bf16" } else { "adamw f32" };
    on_every_executor(SOURCE.needs, |executor| {
        let ([params, precise, first, second], skipped) = on_executor(executor, &case, &inputs, squares);
        assert_eq!(skipped, 0);
        let precise_dtype = if case.has_master { Dtype::F32 } else { params_dtype };
        assert_eq!(params, rounded(&precise, params_dtype), "the parameters are the rounding of the master copy");
        // rounding up or down is off by up to a whole unit, twice that of rounding to nearest
        let units = |dtype| if case.seed.is_some() && dtype == Dtype::Bf16 { 1.0 / 128.0 } else { 0.0 };
        let cases =
            [("params", &precise, 0, precise_dtype), ("m", &first, 1, moments_dtype), ("v", &second, 2, moments_dtype)];
        for (what, got, i, dtype) in cases {
            assert_follows(family, what, dtype, got, &naive[i], &truth[i], floor(1.0, 1) + units(dtype));
        }
        for frozen in (17..24).chain(9024..9031).chain(N - 5..N) {
            assert_eq!(precise[frozen], inputs[0][frozen], "outside the segments nothing moves");
        }
    });
}

const F: Dtype = Dtype::F32;
const B: Dtype = Dtype::Bf16;

#[test]
fn every_format_follows_the_truth() {
    for dtypes in [[F, F, F], [B, B, B], [B, B, F], [B, F, B], [B, F, F]] {
        check(Case { dtypes, has_master: false, max_norm: None, seed: None });
        check(Case { dtypes, has_master: dtypes[0] == B, max_norm: Some(1.0), seed: Some(5) });
        check(Case { dtypes, has_master: false, max_norm: Some(1e9), seed: Some(5) });
    }
}

#[test]
fn a_part_of_the_parameters_is_updated_as_among_all_to_the_bit() {
    let whole = segments();
    for (dtypes, has_master) in [([F, F, F], false), ([B, B, F], true), ([B, B, B], false)] {
        let case = Case { dtypes, has_master, max_norm: Some(1.0), seed: Some(5) };
        let inputs = inputs(&case);
        // the last segment goes to the front and the second behind it, to a multiple of 8 and to none; the first is frozen
        for gap in [1, 4] {
            let part =
                [Segment { state_start: 0, ..whole[2] }, Segment { state_start: whole[2].len + gap, ..whole[1] }];
            let len = part[1].state_start + part[1].len;
            let [p, state @ ..] = &inputs;
            let [g, m, v] = state.each_ref().map(|x| beside_gradients(x, len, &part));
            let part_inputs = [p.clone(), g, m, v];
            on_every_executor(SOURCE.needs, |executor| {
                let (all, _) = on_executor(executor, &case, &inputs, 3.0);
                let (few, _) = after_a_step(executor, &case, &part, &part_inputs, [3.0, 2.5], 0);
                for s in &part {
                    let (of_params, of_state) = (s.start..s.start + s.len, s.state_start..s.state_start + s.len);
                    assert_eq!(few[0][of_params.clone()], all[0][of_params.clone()]);
                    // without a master copy, the second array is the parameters once more
                    for i in if has_master { 1..4 } else { 2..4 } {
                        assert_eq!(few[i][of_state.clone()], all[i][of_params.clone()], "array {i}");
                    }
                }
                let frozen = rounded(&p[..24], dtypes[0]);
                assert_eq!(few[0][..24], frozen, "what is in no segment stays");
                for i in 2..4 {
                    let between = whole[2].len..whole[2].len + gap;
                    assert_eq!(few[i][between.clone()], part_inputs[i][between], "array {i}");
                }
            });
        }
    }
}

#[test]
fn segments_that_share_an_element_make_no_tiles() {
    let first = Segment { start: 0, state_start: 8, len: 10, weight_decay: 0.0 };
    let of_params = Segment { start: 9, state_start: 18, ..first };
    let of_state = Segment { start: 10, state_start: 17, ..first };
    for second in [of_params, of_state] {
        let refused = tiles(&[first, second]);
        assert!(matches!(refused, Err(KernelError::BadArgument { arg: "segments", .. })));
    }
    assert_eq!(tiles(&[first, Segment { start: 10, ..of_params }]).unwrap().count, 2);
}

#[test]
fn a_norm_or_loss_that_is_not_finite_skips_the_step_and_those_behind_it() {
    let with_master = Case { dtypes: [B, B, F], has_master: true, max_norm: Some(1.0), seed: None };
    let all_in_bf16 = Case { dtypes: [B, B, B], has_master: false, seed: Some(4), ..with_master };
    for case in [with_master, all_in_bf16] {
        let inputs = inputs(&case);
        on_every_executor(SOURCE.needs, |executor| {
            let bad =
                [[f64::NAN, 1.0], [f64::INFINITY, 1.0], [1.0, f64::NAN], [1.0, f64::INFINITY], [1.0, -f64::INFINITY]];
            // the last is a good step behind a bad one
            for (sums, skipped) in bad.map(|sums| (sums, 0)).into_iter().chain([([1.0, 1.0], 1)]) {
                let ([params, precise, first, second], skipped) =
                    after_a_step(executor, &case, &segments(), &inputs, sums, skipped);
                assert_eq!(skipped, 1, "{sums:?}");
                assert_eq!([&precise, &first, &second], [&inputs[0], &inputs[2], &inputs[3]]);
                assert_eq!(params, rounded(&inputs[0], B));
            }
        });
    }
}

/// A step from the same numbers everywhere, made with all numbers in bf16: the mean of parameters, first and second moments after it,
/// and the truth.
fn means(executor: &dyn Executor, numbers: [f64; 4], seed: Option<u64>) -> [(f64, f64); 3] {
    let case = Case { dtypes: [B, B, B], has_master: false, max_norm: None, seed };
    let inputs = numbers.map(|x| vec![x; N]);
    let truth = on_cpu::<f64>(&inputs, GRAD_SCALE);
    let ([params, _, first, second], _) = on_executor(executor, &case, &inputs, 1.0);
    let mean = |x: &[f64]| x[24..9024].iter().sum::<f64>() / 9000.0;
    [0, 1, 2].map(|i| (mean([&params, &first, &second][i]), truth[i][24]))
}

#[test]
fn small_steps_are_kept_by_stochastic_rounding() {
    // 16 falls by 0.014, where the next bf16 number is 1/16 away; both moments rise from 1 by 0.0016, where it is 1/128 away: all three
    // are lost when rounded to nearest
    let (numbers, units) = ([16.0, 4.0625, 1.0, 1.0], [1.0 / 16.0, 1.0 / 128.0, 1.0 / 128.0]);
    let before = [numbers[0], numbers[2], numbers[3]];
    on_every_executor(SOURCE.needs, |executor| {
        assert_eq!(means(executor, numbers, None).map(|(mean, _)| mean), before, "lost");
        for (i, (mean, truth)) in means(executor, numbers, Some(3)).into_iter().enumerate() {
            // the mean of 9000 choices between neighbours is off by at most five standard deviations
            let allowed = 5.0 * units[i] * 0.5 / 9000f64.sqrt();
            assert!((mean - truth).abs() < allowed && (truth - before[i]).abs() > allowed, "array {i}: {mean} {truth}");
        }
        assert_eq!(means(executor, numbers, Some(3)), means(executor, numbers, Some(3)), "by the seed alone");
    });
}
