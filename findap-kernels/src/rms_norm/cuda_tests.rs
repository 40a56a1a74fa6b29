use super::super as cpu;
use super::*;
use crate::cuda::tests::cases::{Array, assert_follows, numbers, on_every_executor, rounded, run};
use crate::tolerance::{floor, scale};

#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    dim: usize,
    format: usize,
    adds_residual: bool,
    write_dx: Write,
}

struct Inputs {
    x: Vec<f64>,
    residual: Vec<f64>,
    weight: Vec<f64>,
    dy: Vec<f64>,
    old_dx: Vec<f64>,
}

/// Everything as the formats store it.
fn inputs(case: &Case) -> Inputs {
    let [x, weight] = FORMATS[case.format];
    let (n, dim) = (case.rows * case.dim, case.dim);
    Inputs {
        x: rounded(&numbers(n, 1), x),
        residual: rounded(&numbers(n, 2), x),
        weight: rounded(&numbers(dim, 3), weight),
        dy: rounded(&numbers(n, 4), x),
        old_dx: rounded(&numbers(n, 5), x),
    }
}

const EPS: f64 = 1e-5;

/// out, rstd, dx, dweight of the CPU in f64 or f32.
fn on_cpu<T: crate::Real>(case: &Case, x: &[f64], inputs: &Inputs) -> [Vec<f64>; 4]
where
    for<'a> crate::Slice<'a>: From<&'a [T]>,
    for<'a> crate::SliceMut<'a>: From<&'a mut [T]>,
{
    let of = |x: &[f64]| x.iter().map(|&x| T::from_f64(x)).collect::<Vec<T>>();
    let (x, weight, dy, mut dx) = (of(x), of(&inputs.weight), of(&inputs.dy), of(&inputs.old_dx));
    let (rows, dim) = (case.rows, case.dim);
    let (mut out, mut rstd, mut dweight) = (vec![T::ZERO; rows * dim], vec![T::ZERO; rows], vec![T::ONE; dim]);
    let (x, weight) = (x.as_slice().into(), weight.as_slice().into());
    let args = cpu::Forward {
        out: out.as_mut_slice().into(),
        rstd: rstd.as_mut_slice().into(),
        x,
        weight,
        rows,
        dim,
        eps: EPS,
    };
    cpu::forward(args).unwrap();
    let args = cpu::Backward {
        dx: dx.as_mut_slice().into(),
        write_dx: case.write_dx,
        dweight: Some(dweight.as_mut_slice().into()),
        dy: dy.as_slice().into(),
        x,
        weight,
        rstd: rstd.as_slice().into(),
        rows,
        dim,
    };
    cpu::backward(args).unwrap();
    [out, rstd, dx, dweight].map(|x| x.iter().map(|x| x.to_f64()).collect())
}

fn check(case: Case) {
    let [x_dtype, weight_dtype] = FORMATS[case.format];
    let (rows, dim, inputs) = (case.rows, case.dim, inputs(&case));
    // the sum is rounded to the format before it is normalised, and the backward pass sees it rounded
    let sum: Vec<f64> = match case.adds_residual {
        true => rounded(&inputs.x.iter().zip(&inputs.residual).map(|(x, r)| x + r).collect::<Vec<f64>>(), x_dtype),
        false => inputs.x.clone(),
    };
    let truth = on_cpu::<f64>(&case, &sum, &inputs);
    let naive = on_cpu::<f32>(&case, &sum, &inputs);
    on_every_executor(SOURCE.needs, |executor| {
        let array = |x: &[f64]| Array::new(executor, x, x_dtype);
        let (x, residual, dy, dx) =
            (array(&inputs.x), array(&inputs.residual), array(&inputs.dy), array(&inputs.old_dx));
        let weight = Array::new(executor, &inputs.weight, weight_dtype);
        let (out, rstd) = (Array::poisoned(executor, rows * dim, x_dtype), Array::poisoned(executor, rows, Dtype::F32));
        let sum_out = Array::poisoned(executor, rows * dim, x_dtype);
        let add = case.adds_residual.then(|| Residual { residual: residual.operand(), sum: sum_out.operand() });
        let forward_args = Forward {
            out: out.operand(),
            rstd: rstd.operand(),
            x: x.operand(),
            add,
            weight: weight.operand(),
            rows,
            dim,
            eps: EPS,
        };
        run(executor, &[forward(&forward_args).unwrap()]);
        let normed = if case.adds_residual { &sum_out } else { &x };
        assert_eq!(normed.read(), sum, "the sum is exact but for its one rounding");
        let scratch = Array::poisoned(executor, scratch_len(rows, dim), Dtype::F32);
        let dweight = Array::new(executor, &vec![1.0; dim], Dtype::F32);
        let backward_args = Backward {
            dx: dx.operand(),
            write_dx: case.write_dx,
            dweight: Some(dweight.operand()),
            dy: dy.operand(),
            x: normed.operand(),
            weight: weight.operand(),
            rstd: rstd.operand(),
            scratch: scratch.operand(),
            rows,
            dim,
        };
        run(executor, &backward(&backward_args).unwrap());
        let terms = 1.0 + scale(&truth[1]);
        let family = if x_dtype == Dtype::Bf16 { "rms_norm bf16" } else { "rms_norm f32" };
        let follows = |what: &str, dtype, array: &Array<'_>, i: usize, floor| {
            assert_follows(family, &format!("{what} of {case:?}"), dtype, &array.read(), &naive[i], &truth[i], floor);
        };
        follows("rstd", Dtype::F32, &rstd, 1, floor(scale(&truth[1]), dim));
        follows("out", x_dtype, &out, 0, floor(scale(&truth[0]), dim));
        follows("dx", x_dtype, &dx, 2, floor(terms * scale(&truth[2]), dim));
        follows("dweight", Dtype::F32, &dweight, 3, floor(terms, rows));
        if x_dtype == Dtype::Bf16 {
            let in_bf16 = Array::new(executor, &vec![1.0; dim], Dtype::Bf16);
            let dweight_only = Backward { dweight: Some(in_bf16.operand()), ..backward_args };
            run(executor, &backward(&dweight_only).unwrap());
            assert_eq!(in_bf16.read(), rounded(&dweight.read(), Dtype::Bf16), "the same sum, rounded once");
        }
        let (dx, before) = (Array::poisoned(executor, rows * dim, x_dtype), dx.read());
        let frozen = Backward { dx: dx.operand(), write_dx: Write::Overwrite, dweight: None, ..backward_args };
        run(executor, &backward(&frozen).unwrap());
        if case.write_dx == Write::Overwrite {
            assert_eq!(dx.read(), before, "dx is the same for a frozen weight");
        }
    });
}

#[test]
fn every_size_and_format_follows_the_truth() {
    for format in 0..3 {
        for (rows, dim) in [(1, 8), (3, 24), (5, 256), (300, 40), (2, 2056), (3, 8200), (520, 16), (270, 64), (40, 128)]
        {
            check(Case { rows, dim, format, adds_residual: false, write_dx: Write::Overwrite });
        }
        check(Case { rows: 7, dim: 136, format, adds_residual: true, write_dx: Write::Accumulate });
        check(Case { rows: 261, dim: 16, format, adds_residual: true, write_dx: Write::Accumulate });
    }
}

#[test]
fn sizes_and_addresses_that_no_kernel_has_are_refused() {
    let x = Operand { address: 0, len: 24, dtype: Dtype::F32 };
    let rstd = Operand { len: 2, ..x };
    let weight = Operand { len: 12, ..x };
    let args = Forward { out: x, rstd, x, add: None, weight, rows: 2, dim: 12, eps: 0.0 };
    assert!(matches!(forward(&args), Err(KernelError::BadArgument { arg: "dim", .. })));
    let args = Forward { weight: Operand { len: 8, ..x }, rows: 3, dim: 8, rstd: Operand { len: 3, ..x }, ..args };
    assert!(forward(&args).is_ok());
    let odd = Operand { address: 8, ..x };
    assert!(matches!(forward(&Forward { x: odd, ..args }), Err(KernelError::BadArgument { arg: "x", .. })));
    let narrow = Operand { dtype: Dtype::Bf16, ..x };
    assert!(matches!(forward(&Forward { out: narrow, ..args }), Err(KernelError::UnsupportedDtype { .. })));
}
