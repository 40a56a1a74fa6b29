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
