use super::*;

fn forward_of(gate: &[f64], up: &[f64]) -> Vec<f64> {
    let mut out = vec![f64::NAN; gate.len()];
    forward(Forward { out: (&mut out[..]).into(), gate: gate.into(), up: up.into() }).unwrap();
    out
}

#[test]
fn the_gradients_are_those_of_the_formula() {
    let gate: Vec<f64> = (0..41).map(|i| f64::from(i) / 4.0 - 5.0).collect();
    let up: Vec<f64> = (0..41).map(|i| (f64::from(i) * 0.7).sin()).collect();
    let dout: Vec<f64> = (0..41).map(|i| (f64::from(i) * 1.3).cos()).collect();
    let (mut dgate, mut dup) = (vec![f64::NAN; 41], vec![f64::NAN; 41]);
    backward(Backward {
        dgate: (&mut dgate[..]).into(),
        dup: (&mut dup[..]).into(),
        dout: (&dout[..]).into(),
        gate: (&gate[..]).into(),
        up: (&up[..]).into(),
    })
    .unwrap();
    let step = 1e-5;
    let shifted = |x: &[f64], by: f64| x.iter().map(|x| x + by).collect::<Vec<_>>();
    let (gate_up, gate_down) = (forward_of(&shifted(&gate, step), &up), forward_of(&shifted(&gate, -step), &up));
    let (up_up, up_down) = (forward_of(&gate, &shifted(&up, step)), forward_of(&gate, &shifted(&up, -step)));
    for i in 0..41 {
        assert!((dgate[i] - dout[i] * (gate_up[i] - gate_down[i]) / (2.0 * step)).abs() < 1e-9);
        assert!((dup[i] - dout[i] * (up_up[i] - up_down[i]) / (2.0 * step)).abs() < 1e-9);
    }
}

#[test]
fn f32_follows_f64_even_at_the_ends() {
    let gate = [-1e4f32, -100.0, -87.0, -1.0, 0.0, 1.0, 87.0, 1e4];
    let up = [2.0f32; 8];
    let mut out = [f32::NAN; 8];
    forward(Forward { out: (&mut out[..]).into(), gate: (&gate[..]).into(), up: (&up[..]).into() }).unwrap();
    let truth = forward_of(&gate.map(f64::from), &up.map(f64::from));
    for (y, t) in out.iter().zip(truth) {
        assert!((f64::from(*y) - t).abs() <= 4.0 * f64::from(f32::EPSILON) * t.abs() + 1e-30, "{y} {t}");
    }
}
