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

#[test]
fn f32_is_as_precise_as_plain_loops_at_any_length() {
    use crate::tolerance::{BACKWARD, FORWARD, assert_follows, floor};
    for n in [1usize, 2, 15, 16, 17, 31, 33, 127, 16_385] {
        let numbers = |speed: f32, size: f32| (0..n).map(|i| (i as f32 * speed).sin() * size).collect::<Vec<f32>>();
        let (gate, up, dout) = (numbers(0.37, 12.0), numbers(0.71, 2.0), numbers(1.3, 1.0));
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (gate64, up64, dout64) = (wide(&gate), wide(&up), wide(&dout));
        let mut out = vec![f32::NAN; n];
        forward(Forward { out: (&mut out[..]).into(), gate: (&gate[..]).into(), up: (&up[..]).into() }).unwrap();
        let plain: Vec<f32> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
        // every number is at most 24, and so few operations of its own
        assert_follows("out", &out, &plain, &forward_of(&gate64, &up64), FORWARD, floor(24.0, 1));
        let (mut dgate, mut dup) = (vec![f32::NAN; n], vec![f32::NAN; n]);
        let (mut dgate64, mut dup64) = (vec![f64::NAN; n], vec![f64::NAN; n]);
        backward(Backward {
            dgate: (&mut dgate[..]).into(),
            dup: (&mut dup[..]).into(),
            dout: (&dout[..]).into(),
            gate: (&gate[..]).into(),
            up: (&up[..]).into(),
        })
        .unwrap();
        backward(Backward {
            dgate: (&mut dgate64[..]).into(),
            dup: (&mut dup64[..]).into(),
            dout: (&dout64[..]).into(),
            gate: (&gate64[..]).into(),
            up: (&up64[..]).into(),
        })
        .unwrap();
        let plain: Vec<(f32, f32)> = (0..n)
            .map(|i| {
                let s = 1.0 / (1.0 + (-gate[i]).exp());
                (dout[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s)), dout[i] * gate[i] * s)
            })
            .collect();
        let (dgate_plain, dup_plain): (Vec<f32>, Vec<f32>) = plain.into_iter().unzip();
        assert_follows("dgate", &dgate, &dgate_plain, &dgate64, BACKWARD, floor(24.0, 1));
        assert_follows("dup", &dup, &dup_plain, &dup64, BACKWARD, floor(24.0, 1));
    }
}
