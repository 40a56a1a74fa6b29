use super::super as cpu;
use super::*;
use crate::cuda::tests::cases::{
    Array, IndexArray, assert_follows, numbers, on_every_executor, rounded, run, to_f32, wide,
};
use crate::tolerance::floor;

const POSITIONS: usize = 40;

fn on_cpu<T: crate::Real>(x: &mut [T], cos: &[T], sin: &[T], positions: &[u32], heads: usize, head_dim: usize)
where
    for<'a> crate::Slice<'a>: From<&'a [T]>,
    for<'a> crate::SliceMut<'a>: From<&'a mut [T]>,
{
    cpu::forward(cpu::Apply { x: x.into(), cos: cos.into(), sin: sin.into(), positions, heads, head_dim }).unwrap();
}

fn check(tokens: usize, heads: usize, head_dim: usize, dtype: Dtype) {
    let half = head_dim / 2;
    let angle = |i: usize| (i / half) as f64 * 500_000f64.powf(-((i % half) as f64) / half as f64);
    let table = |f: fn(f64) -> f64| -> Vec<f64> {
        rounded(&(0..POSITIONS * half).map(|i| f(angle(i))).collect::<Vec<f64>>(), Dtype::F32)
    };
    let (cos, sin) = (table(f64::cos), table(f64::sin));
    let positions: Vec<u32> = (0..tokens).map(|t| (t * 7 % POSITIONS) as u32).collect();
    let x = rounded(&numbers(tokens * heads * head_dim, 1), dtype);
    let (mut truth, mut naive) = (x.clone(), to_f32(&x));
    on_cpu(&mut truth, &cos, &sin, &positions, heads, head_dim);
    on_cpu(&mut naive, &to_f32(&cos), &to_f32(&sin), &positions, heads, head_dim);
    on_every_executor(SOURCE.needs, |executor| {
        let (cos, sin) = (Array::new(executor, &cos, Dtype::F32), Array::new(executor, &sin, Dtype::F32));
        let (positions, turned) = (IndexArray::new(executor, &positions), Array::new(executor, &x, dtype));
        let args = Apply {
            x: turned.operand(),
            cos: cos.operand(),
            sin: sin.operand(),
            positions: positions.indices(),
            heads,
            head_dim,
        };
        run(executor, &[forward(&args).unwrap()]);
        let family = if dtype == Dtype::Bf16 { "rope bf16" } else { "rope f32" };
        assert_follows(family, "x", dtype, &turned.read(), &wide(&naive), &truth, floor(1.0, 1));
        run(executor, &[backward(&args).unwrap()]);
        // twice rounded by the format, of numbers below 2
        let unit = if dtype == Dtype::Bf16 { 1.0 / 128.0 } else { 1e-6 };
        assert!(turned.read().iter().zip(&x).all(|(back, x)| (back - x).abs() <= 2.0 * unit), "the rotation inverts");
    });
}

#[test]
fn every_shape_and_format_follows_the_truth() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for (tokens, heads, head_dim) in [(1, 1, 16), (5, 3, 64), (17, 2, 128), (33, 4, 80)] {
            check(tokens, heads, head_dim, dtype);
        }
    }
}
