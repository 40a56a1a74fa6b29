use super::*;

fn tables(positions: usize, half: usize) -> (Vec<f64>, Vec<f64>) {
    let angle = |i: usize| (i / half) as f64 * 10f64.powf(-((i % half) as f64));
    ((0..positions * half).map(|i| angle(i).cos()).collect(), (0..positions * half).map(|i| angle(i).sin()).collect())
}

#[test]
fn backward_inverts_forward_and_both_keep_lengths() {
    let (heads, head_dim) = (3, 10);
    let (cos, sin) = tables(40, head_dim / 2);
    let positions: Vec<u32> = (0..29).chain(0..11).collect();
    let x: Vec<f64> = (0..positions.len() * heads * head_dim).map(|i| ((i * 37 % 101) as f64) - 50.0).collect();
    let call = |x: &mut [f64], inverse: bool| {
        let args = Apply {
            x: x.into(),
            cos: (&cos[..]).into(),
            sin: (&sin[..]).into(),
            positions: &positions,
            heads,
            head_dim,
        };
        if inverse { backward(args) } else { forward(args) }.unwrap();
    };
    let mut y = x.clone();
    call(&mut y, false);
    assert_eq!(x[..head_dim * heads], y[..head_dim * heads], "position 0 is not rotated");
    assert!(x != y);
    for (a, b) in x.chunks(head_dim).zip(y.chunks(head_dim)) {
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>();
        assert!((norm(a) - norm(b)).abs() < 1e-9);
    }
    call(&mut y, true);
    assert!(x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-12));
}

#[test]
fn a_position_past_the_tables_and_an_odd_head_are_refused() {
    let table = [1.0f32; 4];
    let mut x = [1.0f32; 4];
    let t = || Slice::F32(&table);
    let result = forward(Apply { x: (&mut x[..]).into(), cos: t(), sin: t(), positions: &[2], heads: 1, head_dim: 4 });
    assert!(matches!(result, Err(KernelError::IdOutOfRange { arg: "positions", id: 2, limit: 2, .. })));
    let result = forward(Apply { x: (&mut x[..3]).into(), cos: t(), sin: t(), positions: &[0], heads: 1, head_dim: 3 });
    assert!(matches!(result, Err(KernelError::BadArgument { arg: "head_dim", .. })));
}
