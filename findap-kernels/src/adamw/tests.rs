use super::*;

const LR: f64 = 0.01;

fn run(steps: u64, segments: &[Segment], start: f64) -> (Vec<f64>, Vec<f64>) {
    let n = 70_000;
    let mut p = vec![start; n];
    let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
    for step_number in 1..=steps {
        let g: Vec<f64> = p.iter().enumerate().map(|(i, p)| p - (i % 7) as f64).collect();
        step(Step {
            params: (&mut p[..]).into(),
            grads: (&g[..]).into(),
            first_moment: (&mut m[..]).into(),
            second_moment: (&mut v[..]).into(),
            segments,
            rule: AdamWStep { lr: LR, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: step_number, grad_scale: 0.5 },
        })
        .unwrap();
    }
    (p, m)
}

#[test]
fn three_steps_follow_the_formula() {
    let segments = [Segment { start: 0, state_start: 0, len: 60_000, weight_decay: 0.1 }];
    let (p, _) = run(3, &segments, 2.5);
    for i in [0usize, 1, 6, 33_333, 59_999] {
        let (mut want, mut m, mut v) = (2.5, 0.0, 0.0);
        for t in 1..=3 {
            let g = 0.5 * (want - (i % 7) as f64);
            m = 0.9 * m + 0.1 * g;
            v = 0.95 * v + 0.05 * g * g;
            let hat = (m / (1.0 - 0.9f64.powi(t))) / ((v / (1.0 - 0.95f64.powi(t))).sqrt() + 1e-8);
            want = want * (1.0 - LR * 0.1) - LR * hat;
        }
        assert!((p[i] - want).abs() < 1e-12, "{i}: {} {want}", p[i]);
    }
    assert!(p[60_000..].iter().all(|&p| p == 2.5), "outside the segments nothing moves");
}

#[test]
fn it_finds_the_minimum_of_a_parabola() {
    let segments = [Segment { start: 0, state_start: 0, len: 70_000, weight_decay: 0.0 }];
    let (p, _) = run(1500, &segments[..1], 3.0);
    assert!((0..7).all(|i| (p[i] - i as f64).abs() < 0.05), "{:?}", &p[..7]);
}

#[test]
fn a_segment_past_the_end_and_step_zero_are_refused() {
    let (mut p, g, mut m, mut v) = ([0.0f32; 4], [0.0f32; 4], [0.0f32; 4], [0.0f32; 4]);
    let mut call = |len, number| {
        step(Step {
            params: (&mut p[..]).into(),
            grads: (&g[..]).into(),
            first_moment: (&mut m[..]).into(),
            second_moment: (&mut v[..]).into(),
            segments: &[Segment { start: 1, state_start: 1, len, weight_decay: 0.0 }],
            rule: AdamWStep { lr: 0.1, beta1: 0.9, beta2: 0.9, eps: 1e-8, step: number, grad_scale: 1.0 },
        })
    };
    assert!(matches!(call(4, 1), Err(KernelError::ShapeMismatch { arg: "params", want: 5, got: 4, .. })));
    assert!(matches!(call(3, 0), Err(KernelError::BadArgument { arg: "step", .. })));
}

#[test]
fn segments_that_share_an_element_are_refused() {
    let mut arrays = [[0.5f64; 40]; 4];
    let mut call = |segments: [[usize; 3]; 3]| {
        let [p, g, m, v] = &mut arrays;
        let segments = segments.map(|[start, state_start, len]| Segment { start, state_start, len, weight_decay: 0.0 });
        step(Step {
            params: (&mut p[..]).into(),
            grads: (&g[..]).into(),
            first_moment: (&mut m[..]).into(),
            second_moment: (&mut v[..]).into(),
            segments: &segments,
            rule: AdamWStep { lr: 0.1, beta1: 0.9, beta2: 0.9, eps: 1e-8, step: 1, grad_scale: 1.0 },
        })
    };
    for shared in [
        [[0, 0, 10], [20, 10, 10], [9, 20, 10]],
        [[0, 0, 10], [20, 10, 10], [30, 19, 10]],
        [[20, 0, 10], [11, 20, 10], [0, 10, 10]],
        // one inside of another, and twice the same
        [[0, 0, 20], [30, 20, 10], [5, 30, 1]],
        [[0, 0, 10], [20, 20, 10], [0, 0, 10]],
    ] {
        assert!(matches!(call(shared), Err(KernelError::BadArgument { arg: "segments", .. })), "{shared:?}");
    }
    call([[20, 0, 10], [10, 20, 10], [0, 10, 10]]).unwrap(); // neighbours, in any order
    call([[0, 0, 10], [5, 5, 0], [0, 0, 0]]).unwrap(); // one of no elements shares none
}

#[test]
fn gradients_and_moments_of_frozen_parameters_may_be_missing() {
    let run = |segments: &[Segment], grads: &[f64]| {
        let mut p: Vec<f64> = (0..100).map(f64::from).collect();
        let (mut m, mut v) = (vec![0.0; grads.len()], vec![0.0; grads.len()]);
        step(Step {
            params: (&mut p[..]).into(),
            grads: grads.into(),
            first_moment: (&mut m[..]).into(),
            second_moment: (&mut v[..]).into(),
            segments,
            rule: AdamWStep { lr: 0.1, beta1: 0.9, beta2: 0.9, eps: 1e-8, step: 1, grad_scale: 1.0 },
        })
        .unwrap();
        (p, [m, v])
    };
    let grads: Vec<f64> = (0..100).map(|i| f64::from(i).sin()).collect();
    let [mut all, mut few] = [(); 2].map(|()| {
        [(10, 20), (50, 7)].map(|(start, len)| Segment { start, state_start: start, len, weight_decay: 0.1 })
    });
    (few[0].state_start, few[1].state_start) = (7, 0);
    all.reverse();
    let (want, state) = run(&all, &grads);
    let (got, few_state) = run(&few, &[&grads[50..57], &grads[10..30]].concat());
    assert_eq!(got, want);
    for (few, all) in few_state.iter().zip(&state) {
        assert_eq!(few[..], [&all[50..57], &all[10..30]].concat());
    }
}

#[test]
fn f32_follows_f64_and_threads_do_not_change_a_bit() {
    use crate::tolerance::{FORWARD, assert_follows, floor};
    let n = 40_003;
    let start: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
    let grads: Vec<f32> = (0..n).map(|i| (i as f32 * 0.11).cos()).collect();
    let segments = [
        Segment { start: 0, state_start: 0, len: 17, weight_decay: 0.1 },
        Segment { start: 17, state_start: 17, len: n - 20, weight_decay: 0.0 },
    ];
    let on = |threads| {
        let (mut p, mut m, mut v) = (start.clone(), vec![0.1f32; n], vec![0.2f32; n]);
        let args = Step {
            params: (&mut p[..]).into(),
            grads: (&grads[..]).into(),
            first_moment: (&mut m[..]).into(),
            second_moment: (&mut v[..]).into(),
            segments: &segments,
            rule: AdamWStep { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 7, grad_scale: 0.3 },
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| step(args)).unwrap();
        (p, m, v)
    };
    let narrow = on(1);
    assert!(narrow == on(2));
    assert_eq!(narrow.0[n - 3..], start[n - 3..], "outside the segments nothing moves");
    let (bias1, bias2) = (1.0 - 0.9f64.powi(7), 1.0 - 0.95f64.powi(7));
    let truth: Vec<f64> = (0..n - 3)
        .map(|i| {
            let (p, g) = (f64::from(start[i]), 0.3 * f64::from(grads[i]));
            let (m, v) = (0.9 * f64::from(0.1f32) + 0.1 * g, 0.95 * f64::from(0.2f32) + 0.05 * g * g);
            let decay = if i < 17 { 0.1 } else { 0.0 };
            p * (1.0 - 0.01 * decay) - 0.01 * (m / bias1) / ((v / bias2).sqrt() + 1e-8)
        })
        .collect();
    let rounded: Vec<f32> = truth.iter().map(|&x| x as f32).collect();
    assert_follows("params", &narrow.0[..n - 3], &rounded, &truth, FORWARD, floor(1.0, 1));
}
