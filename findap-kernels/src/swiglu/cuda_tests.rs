use super::super as cpu;
use super::*;
use crate::cuda::tests::cases::{Array, assert_follows, numbers, on_every_executor, rounded, run, to_f32, wide};
use crate::tolerance::floor;

/// out, dgate, dup.
fn on_cpu<T: crate::Real>(gate: &[T], up: &[T], dout: &[T]) -> [Vec<T>; 3]
where
    for<'a> crate::Slice<'a>: From<&'a [T]>,
    for<'a> crate::SliceMut<'a>: From<&'a mut [T]>,
{
    let n = gate.len();
    let (mut out, mut dgate, mut dup) = (vec![T::ZERO; n], vec![T::ZERO; n], vec![T::ZERO; n]);
    cpu::forward(cpu::Forward { out: out.as_mut_slice().into(), gate: gate.into(), up: up.into() }).unwrap();
    let (dgate_out, dup_out) = (dgate.as_mut_slice().into(), dup.as_mut_slice().into());
    cpu::backward(cpu::Backward {
        dgate: dgate_out,
        dup: dup_out,
        dout: dout.into(),
        gate: gate.into(),
        up: up.into(),
    })
    .unwrap();
    [out, dgate, dup]
}

fn check(n: usize, dtype: Dtype, is_in_place: bool) {
    let gate: Vec<f64> = rounded(&numbers(n, 1).iter().map(|x| x * 12.0).collect::<Vec<f64>>(), dtype);
    let (up, dout) = (rounded(&numbers(n, 2), dtype), rounded(&numbers(n, 3), dtype));
    let truth = on_cpu(&gate, &up, &dout);
    let naive = on_cpu(&to_f32(&gate), &to_f32(&up), &to_f32(&dout)).map(|x| wide(&x));
    on_every_executor(SOURCE.needs, |executor| {
        let array = |x: &[f64]| Array::new(executor, x, dtype);
        let poisoned = || Array::poisoned(executor, n, dtype);
        let (gate, up, dout, out) = (array(&gate), array(&up), array(&dout), poisoned());
        run(executor, &[forward(&Forward { out: out.operand(), gate: gate.operand(), up: up.operand() }).unwrap()]);
        let (fresh_dgate, fresh_dup) = (poisoned(), poisoned());
        let (dgate, dup) = if is_in_place { (&gate, &up) } else { (&fresh_dgate, &fresh_dup) };
        let args = Backward {
            dgate: dgate.operand(),
            dup: dup.operand(),
            dout: dout.operand(),
            gate: gate.operand(),
            up: up.operand(),
        };
        run(executor, &[backward(&args).unwrap()]);
        let family = if dtype == Dtype::Bf16 { "swiglu bf16" } else { "swiglu f32" };
        for (what, array, i) in [("out", &out, 0), ("dgate", dgate, 1), ("dup", dup, 2)] {
            // every number is at most 12, and so few operations of its own
            assert_follows(family, what, dtype, &array.read(), &naive[i], &truth[i], floor(12.0, 1));
        }
    });
}

#[test]
fn every_length_and_format_follows_the_truth() {
    for dtype in FORMATS {
        for n in [1, 7, 8, 9, 255, 2048, 4097] {
            check(n, dtype, n % 2 == 0);
        }
    }
}
