use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

struct Case {
    hidden: Vec<f64>,
    weight: Vec<f64>,
    targets: Vec<u32>,
    sizes: Sizes,
}

fn case(n: usize, dim: usize, vocab: usize, chunk_rows: usize) -> Case {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut numbers = |len| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f64>>();
    let (hidden, weight) = (numbers(n * dim), numbers(vocab * dim));
    let targets = (0..n).map(|t| if t % 5 == 3 { IGNORE } else { (t * 7 % vocab) as u32 }).collect();
    Case { hidden, weight, targets, sizes: Sizes { dim, vocab, chunk_rows } }
}

/// The definition, in f64.
fn log_probabilities(c: &Case, hidden: &[f64], weight: &[f64]) -> Vec<f64> {
    let dim = c.sizes.dim;
    let logit = |t: usize, j: usize| (0..dim).map(|i| hidden[t * dim + i] * weight[j * dim + i]).sum::<f64>();
    let row = |(t, &target): (usize, &u32)| {
        if target == IGNORE {
            return 0.0;
        }
        logit(t, target as usize) - (0..c.sizes.vocab).map(|j| logit(t, j).exp()).sum::<f64>().ln()
    };
    c.targets.iter().enumerate().map(row).collect()
}

type Gradients<T> = (Vec<f64>, Vec<T>, Vec<T>);

fn run_with<T: Real>(c: &Case, weights: &[f64], fused: bool) -> Gradients<T>
where
    for<'a> Slice<'a>: From<&'a [T]>,
    for<'a> SliceMut<'a>: From<&'a mut [T]>,
{
    let narrow = |x: &[f64]| x.iter().map(|&x| T::from_f64(x)).collect::<Vec<T>>();
    let (hidden, weight) = (narrow(&c.hidden), narrow(&c.weight));
    let n = c.targets.len();
    let (mut logp, mut lse) = (vec![f64::NAN; n], vec![f64::NAN; n]);
    let mut scratch = vec![T::from_f64(f64::NAN); c.sizes.scratch_len()];
    let (mut dhidden, mut dweight) = (vec![T::from_f64(f64::NAN); hidden.len()], vec![T::ONE; weight.len()]);
    if !fused {
        forward(Forward {
            logp: &mut logp,
            lse: &mut lse,
            hidden: (&hidden[..]).into(),
            weight: (&weight[..]).into(),
            targets: &c.targets,
            sizes: c.sizes,
            scratch: (&mut scratch[..]).into(),
        })
        .unwrap();
    }
    let args = Backward {
        token_weights: weights,
        dhidden: (&mut dhidden[..]).into(),
        dweight: Some((&mut dweight[..]).into()),
        forward: Forward {
            logp: &mut logp,
            lse: &mut lse,
            hidden: (&hidden[..]).into(),
            weight: (&weight[..]).into(),
            targets: &c.targets,
            sizes: c.sizes,
            scratch: (&mut scratch[..]).into(),
        },
    };
    if fused { forward_backward(args) } else { backward(args) }.unwrap();
    (logp, dhidden, dweight)
}

#[test]
fn log_probabilities_and_gradients_are_those_of_the_definition() {
    let c = case(23, 7, 19, 4);
    let weights: Vec<f64> = (0..23).map(|t| f64::from(t) * 0.1 - 1.0).collect();
    let (logp, dhidden, dweight) = run_with::<f64>(&c, &weights, false);
    let want = log_probabilities(&c, &c.hidden, &c.weight);
    assert!(logp.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12));
    let loss = |hidden: &[f64], weight: &[f64]| -> f64 {
        log_probabilities(&c, hidden, weight).iter().zip(&weights).map(|(l, w)| l * w).sum()
    };
    for i in 0..c.hidden.len() {
        let at = |d: f64| {
            let mut x = c.hidden.clone();
            x[i] += d;
            loss(&x, &c.weight)
        };
        assert!((dhidden[i] - (at(1e-5) - at(-1e-5)) / 2e-5).abs() < 1e-8, "dhidden[{i}]");
    }
    for i in 0..c.weight.len() {
        let at = |d: f64| {
            let mut x = c.weight.clone();
            x[i] += d;
            loss(&c.hidden, &x)
        };
        assert!((dweight[i] - 1.0 - (at(1e-5) - at(-1e-5)) / 2e-5).abs() < 1e-8, "dweight[{i}]");
    }
}

#[test]
fn the_fused_pass_and_f32_agree_with_the_two_passes() {
    let c = case(65, 16, 301, 32);
    let weights = vec![-0.02; 65];
    let two = run_with::<f64>(&c, &weights, false);
    assert!(two == run_with::<f64>(&c, &weights, true));
    let narrow = run_with::<f32>(&c, &weights, true);
    let unit = f64::from(f32::EPSILON);
    assert!(narrow.0.iter().zip(&two.0).all(|(a, b)| (a - b).abs() < 16.0 * unit));
    assert!(narrow.1.iter().zip(&two.1).all(|(a, b)| (f64::from(*a) - b).abs() < unit));
    assert!(narrow.2.iter().zip(&two.2).all(|(a, b)| (f64::from(*a) - b).abs() < 2.0 * unit));
}

#[test]
fn rows_without_loss_are_left_out_altogether() {
    let mut c = case(40, 8, 11, 16);
    let weights = vec![1.0; 40];
    let before = run_with::<f64>(&c, &weights, false);
    for t in (3..40).step_by(5) {
        c.hidden[t * 8..][..8].fill(f64::NAN);
    }
    let after = run_with::<f64>(&c, &weights, false);
    assert!(before == after);
    c.targets.fill(IGNORE);
    let (logp, dhidden, dweight) = run_with::<f32>(&c, &weights, true);
    assert!(logp.iter().all(|&x| x == 0.0) && dhidden.iter().all(|&x| x == 0.0) && dweight.iter().all(|&x| x == 1.0));
}

#[test]
fn a_target_past_the_vocabulary_is_refused() {
    let c = case(4, 2, 3, 2);
    let (mut logp, mut lse, mut scratch) = ([0.0; 4], [0.0; 4], vec![0.0; c.sizes.scratch_len()]);
    let result = forward(Forward {
        logp: &mut logp,
        lse: &mut lse,
        hidden: (&c.hidden[..]).into(),
        weight: (&c.weight[..]).into(),
        targets: &[0, 1, 3, 2],
        sizes: c.sizes,
        scratch: (&mut scratch[..]).into(),
    });
    assert!(matches!(result, Err(KernelError::IdOutOfRange { arg: "targets", index: 2, id: 3, limit: 3, .. })));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
    #[test]
    fn any_head_is_as_precise_as_its_terms(n in 1usize..40, dim in 1usize..40, vocab in 5usize..200, chunk_rows in 1usize..50) {
        use crate::tolerance::{FORWARD, assert_follows, floor};
        let mut c = case(n, dim, vocab, chunk_rows);
        for x in [&mut c.hidden, &mut c.weight] {
            x.iter_mut().for_each(|x| *x = f64::from(*x as f32));
        }
        let weights: Vec<f64> = (0..n).map(|t| 0.5 - (t % 3) as f64).collect();
        let wide = run_with::<f64>(&c, &weights, true);
        let narrow = run_with::<f32>(&c, &weights, true);
        let rounded = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        // Logits are sums of dim products below 1; a gradient sums vocab or n terms whose factors carry their errors.
        let logits = floor((dim as f64).sqrt(), dim);
        assert_follows("logp", &rounded(&narrow.0), &rounded(&wide.0), &wide.0, FORWARD, logits);
        assert_follows("dhidden", &narrow.1, &rounded(&wide.1), &wide.1, FORWARD, logits + floor(1.0, vocab));
        assert_follows("dweight", &narrow.2, &rounded(&wide.2), &wide.2, FORWARD, (logits + floor(1.0, n)) * n as f64);
    }
}

#[test]
fn threads_and_other_rows_do_not_change_a_bit() {
    let c = case(70, 16, 301, 32);
    let weights = vec![-0.02; 70];
    let on = |threads, c: &Case| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run_with::<f32>(c, &weights, true))
    };
    let one = on(1, &c);
    assert!(one == on(2, &c));
    let mut moved = case(70, 16, 301, 32);
    moved.hidden[10 * 16..20 * 16].fill(0.9);
    let other = on(2, &moved);
    for t in (0..70).filter(|t| !(10..20).contains(t)) {
        assert_eq!(one.0[t].to_bits(), other.0[t].to_bits(), "logp[{t}]");
        assert_eq!(one.1[t * 16..][..16], other.1[t * 16..][..16], "dhidden[{t}]");
    }
}
