use super::*;

#[test]
fn sums_are_exact_on_integers_and_the_same_on_any_number_of_threads() {
    let x: Vec<f32> = (0..100_003).map(|i| (i % 11) as f32 - 5.0).collect();
    let want: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    assert_eq!(sum_squares((&x[..]).into()), want);
    let y: Vec<f64> = (0..100_003).map(|i| (f64::from(i) * 0.1).sin()).collect();
    let on = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| sum_squares((&y[..]).into()))
    };
    assert_eq!(on(1).to_bits(), on(2).to_bits());
}

#[test]
fn one_bad_number_is_found() {
    let mut x = vec![1.0f32; 70_000];
    assert!(all_finite((&x[..]).into()));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        x[69_999] = bad;
        assert!(!all_finite((&x[..]).into()));
        assert!(!sum_squares((&x[..]).into()).is_finite());
    }
}

#[test]
fn add_and_fill_reach_every_number() {
    let (mut x, y) = (vec![1.0f64; 40_000], vec![0.5; 40_000]);
    add((&mut x[..]).into(), (&y[..]).into()).unwrap();
    assert!(x.iter().all(|&x| x == 1.5));
    fill((&mut x[..]).into(), -2.0);
    assert!(x.iter().all(|&x| x == -2.0));
    assert!(add((&mut x[..]).into(), (&y[..5]).into()).is_err());
}

#[test]
fn scale_multiplies_every_number_once() {
    let x: Vec<f32> = (0..70_001).map(|i| (i as f32 * 0.3).sin()).collect();
    let (mut narrow, mut wide) = (x.clone(), x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>());
    scale((&mut narrow[..]).into(), 0.7).unwrap();
    scale((&mut wide[..]).into(), 0.7).unwrap();
    assert!(x.iter().zip(&narrow).all(|(x, y)| x * 0.7f32 == *y));
    assert!(x.iter().zip(&wide).all(|(x, y)| f64::from(*x) * 0.7 == *y));
    let refused = scale((&mut [half::bf16::ONE; 4][..]).into(), 0.7);
    assert!(matches!(refused, Err(KernelError::UnsupportedDtype { .. })));
}

#[test]
fn casts_round_once_and_widen_exactly() {
    use half::bf16;
    let x: Vec<f32> = (0..70_000).map(|i| (i as f32 - 35_000.0) * 1.000_123e-3).collect();
    let (mut rounded, mut widened) = (vec![bf16::ZERO; x.len()], vec![0.0f32; x.len()]);
    cast((&mut rounded[..]).into(), (&x[..]).into()).unwrap();
    assert!(x.iter().zip(&rounded).all(|(&x, &y)| bf16::from_f32(x) == y));
    cast((&mut widened[..]).into(), (&rounded[..]).into()).unwrap();
    assert!(rounded.iter().zip(&widened).all(|(x, &y)| x.to_f32() == y));
    let short = cast((&mut widened[..5]).into(), (&rounded[..4]).into());
    assert!(matches!(short, Err(KernelError::ShapeMismatch { arg: "x", want: 5, got: 4, .. })));
    let wide = cast((&mut widened[..4]).into(), (&[0.0f64; 4][..]).into());
    assert!(matches!(wide, Err(KernelError::UnsupportedDtype { .. })));
}
