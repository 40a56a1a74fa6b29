use super::super as cpu;
use super::*;
use crate::cuda::tests::cases::{Array, assert_follows, numbers, on_every_executor, rounded, run, to_f32, wide};
use crate::tolerance::floor;

/// y, db.
fn on_cpu<T: crate::Real>(y: &[T], bias: &[T]) -> [Vec<T>; 2]
where
    for<'a> crate::Slice<'a>: From<&'a [T]>,
    for<'a> crate::SliceMut<'a>: From<&'a mut [T]>,
{
    let (mut out, mut dbias) = (y.to_vec(), vec![T::ONE; bias.len()]);
    cpu::forward(cpu::Forward { y: out.as_mut_slice().into(), bias: bias.into() }).unwrap();
    cpu::backward(cpu::Backward { dbias: dbias.as_mut_slice().into(), dy: y.into() }).unwrap();
    [out, dbias]
}

fn check(rows: usize, columns: usize, dtype: Dtype, bias_dtype: Dtype) {
    let (y, bias) = (rounded(&numbers(rows * columns, 1), dtype), rounded(&numbers(columns, 2), bias_dtype));
    let truth = on_cpu(&y, &bias);
    let naive = on_cpu(&to_f32(&y), &to_f32(&bias)).map(|x| wide(&x));
    on_every_executor(SOURCE.needs, |executor| {
        let (dy, out) = (Array::new(executor, &y, dtype), Array::new(executor, &y, dtype));
        run(executor, &[forward(&out.operand(), &Array::new(executor, &bias, bias_dtype).operand()).unwrap()]);
        let family = if dtype == Dtype::Bf16 { "bias bf16" } else { "bias f32" };
        assert_follows(family, "y", dtype, &out.read(), &naive[0], &truth[0], floor(2.0, 1));
        let scratch = Array::poisoned(executor, scratch_len(rows, columns), Dtype::F32);
        let gradient = |format| {
            let dbias = Array::new(executor, &vec![1.0; columns], format);
            run(executor, &backward(&dbias.operand(), &dy.operand(), &scratch.operand()).unwrap());
            dbias.read()
        };
        let in_f32 = gradient(Dtype::F32);
        assert_follows(family, "dbias", Dtype::F32, &in_f32, &naive[1], &truth[1], floor(rows as f64, rows));
        if dtype == Dtype::Bf16 {
            assert_eq!(gradient(Dtype::Bf16), rounded(&in_f32, Dtype::Bf16), "the same sum, rounded once");
        }
    });
}

#[test]
fn every_size_and_format_follows_the_truth() {
    for (dtype, bias_dtype) in [(Dtype::F32, Dtype::F32), (Dtype::F32, Dtype::Bf16), (Dtype::Bf16, Dtype::Bf16)] {
        for (rows, columns) in [(1, 1), (3, 7), (40, 64), (300, 24), (5, 300), (70, 2), (2, 259)] {
            check(rows, columns, dtype, bias_dtype);
        }
    }
}

#[test]
fn what_the_kernels_cannot_take_is_refused() {
    let of = |len, dtype| Operand { address: 0, len, dtype };
    let (y, bias) = (of(12, Dtype::F32), of(4, Dtype::F32));
    assert!(forward(&y, &bias).is_ok());
    assert!(matches!(forward(&y, &of(5, Dtype::F32)), Err(KernelError::BadArgument { arg: "y", .. })));
    assert!(matches!(forward(&of(12, Dtype::Bf16), &bias), Err(KernelError::UnsupportedDtype { .. })));
    let odd = Operand { address: 8, ..y };
    assert!(matches!(forward(&odd, &bias), Err(KernelError::BadArgument { arg: "y", .. })));
    assert!(backward(&bias, &y, &of(12, Dtype::F32)).is_ok());
    assert!(backward(&bias, &y, &of(11, Dtype::F32)).is_err());
    assert!(backward(&bias, &of(0, Dtype::F32), &of(0, Dtype::F32)).unwrap().is_empty());
    assert!(backward(&of(4, Dtype::Bf16), &y, &of(12, Dtype::F32)).is_err());
}
