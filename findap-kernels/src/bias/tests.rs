use proptest::prelude::*;

use super::*;

/// y and db in f64 and in f32, db beginning at 1.
fn run<T: crate::Real>(y: &[f64], bias: &[f64]) -> (Vec<f64>, Vec<f64>)
where
    for<'a> Slice<'a>: From<&'a [T]>,
    for<'a> SliceMut<'a>: From<&'a mut [T]>,
{
    let narrow = |x: &[f64]| x.iter().map(|&x| T::from_f64(x)).collect::<Vec<T>>();
    let (mut out, bias, mut dbias) = (narrow(y), narrow(bias), vec![T::ONE; bias.len()]);
    backward(Backward { dbias: dbias.as_mut_slice().into(), dy: out.as_slice().into() }).unwrap();
    forward(Forward { y: out.as_mut_slice().into(), bias: bias.as_slice().into() }).unwrap();
    let wide = |x: &[T]| x.iter().map(|x| x.to_f64()).collect();
    (wide(&out), wide(&dbias))
}

fn check(rows: usize, columns: usize) {
    let y: Vec<f64> = (0..rows * columns).map(|i| (i as f64 * 0.7).sin()).collect();
    let bias: Vec<f64> = (0..columns).map(|i| (i as f64 * 1.3).cos()).collect();
    let (out, dbias) = run::<f64>(&y, &bias);
    let (out32, dbias32) = run::<f32>(&y, &bias);
    for c in 0..columns {
        let column = (0..rows).map(|r| y[r * columns + c]);
        let sum: f64 = 1.0 + column.clone().sum::<f64>();
        // one rounding of 2^-53 or 2^-24 of partial sums below `rows + 1` for each of them
        let unit = (rows + 1).pow(2) as f64 / 2f64.powi(24);
        assert!((dbias[c] - sum).abs() <= unit * 2f64.powi(-29), "{rows} x {columns}: db[{c}]");
        assert!((dbias32[c] - sum).abs() <= unit, "{rows} x {columns}: f32 db[{c}]");
        for (r, y) in column.enumerate() {
            let want = y + bias[c];
            assert_eq!(out[r * columns + c], want);
            assert!((out32[r * columns + c] - want).abs() <= 4.0 / f64::from(1 << 24));
        }
    }
}

#[test]
fn every_row_gets_the_bias_and_the_bias_the_sum_of_rows() {
    for (rows, columns) in [(0, 3), (1, 1), (63, 5), (64, 8), (65, 16), (300, 7)] {
        check(rows, columns);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_size(rows in 0usize..200, columns in 1usize..40) {
        check(rows, columns);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (columns, dy) = (33, (0..33 * 1000).map(|i| (i as f32 * 0.1).sin()).collect::<Vec<f32>>());
    let on = |threads| {
        let mut dbias = vec![0.0f32; columns];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| backward(Backward { dbias: (&mut dbias[..]).into(), dy: (&dy[..]).into() }).unwrap());
        dbias
    };
    assert_eq!(on(1), on(2));
}

#[test]
fn what_does_not_fit_is_refused() {
    let (mut y, bias) = ([0.0f32; 6], [0.0f32; 4]);
    let refused = forward(Forward { y: (&mut y[..]).into(), bias: (&bias[..]).into() });
    assert!(matches!(refused, Err(KernelError::BadArgument { arg: "y", .. })));
    let refused = backward(Backward { dbias: (&mut [0.0f32; 0][..]).into(), dy: (&y[..]).into() });
    assert!(matches!(refused, Err(KernelError::BadArgument { arg: "columns", .. })));
    let refused = backward(Backward { dbias: (&mut [0.0f64; 3][..]).into(), dy: (&y[..]).into() });
    assert!(matches!(refused, Err(KernelError::UnsupportedDtype { .. })));
}
