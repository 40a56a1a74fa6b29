use super::super as cpu;
use super::*;
use crate::cuda::tests::cases::{Array, IndexArray, assert_follows, numbers, on_every_executor, rounded, run};
use crate::tolerance::floor;

/// One row, many draws: the rows of the launch are copies of it.
fn check(logits: &[f64], pitch: usize, sampling: Sampling, dtype: Dtype) {
    const DRAWS: usize = 9;
    let (vocab, row) = (logits.len(), rounded(logits, dtype));
    let uniform: Vec<f64> =
        rounded(&(0..DRAWS).map(|i| (i as f64 + 0.37) / DRAWS as f64).collect::<Vec<f64>>(), Dtype::F32);
    let choose = |u: f64| cpu::sample((&row[..]).into(), sampling, u).unwrap();
    let mut padded = row.clone();
    padded.resize(pitch, f64::NAN);
    let padded: Vec<f64> = padded.repeat(DRAWS);
    on_every_executor(SOURCE.needs, |executor| {
        let (logits, uniform_array) =
            (Array::new(executor, &padded, dtype), Array::new(executor, &uniform, Dtype::F32));
        let tokens = IndexArray::new(executor, &[u32::MAX; DRAWS]);
        let logp = Array::poisoned(executor, DRAWS, Dtype::F32);
        let args = Sample {
            tokens: tokens.indices(),
            logp: logp.operand(),
            logits: logits.operand(),
            uniform: uniform_array.operand(),
            targets: None,
            vocab,
            pitch,
            sampling,
        };
        run(executor, &[sample(&args).unwrap()]);
        let chosen = tokens.read();
        for (i, &u) in uniform.iter().enumerate() {
            // weights of f32 move the borders between tokens by 1e-6 or so
            let near = [u - 1e-5, u, u + 1e-5].map(|u| choose(u.clamp(0.0, 1.0 - 1e-12)).0);
            assert!(near.contains(&chosen[i]), "draw {i} at {u}: {} instead of {near:?} with {sampling:?}", chosen[i]);
        }
        let truth: Vec<f64> = chosen.iter().map(|&token| log_probability(&row, token)).collect();
        let family = if dtype == Dtype::Bf16 { "sample bf16" } else { "sample f32" };
        let floor = floor(20.0, 1) + floor(1.0, vocab);
        assert_follows(family, "logp", Dtype::F32, &logp.read(), &truth, &truth, floor);
        // the same tokens with the log-probabilities of others
        let others: Vec<u32> = (0..DRAWS).map(|i| (i * 101 % vocab) as u32).collect();
        let targets = IndexArray::new(executor, &others);
        run(executor, &[sample(&Sample { targets: Some(targets.indices()), ..args }).unwrap()]);
        assert_eq!(tokens.read(), chosen);
        let truth: Vec<f64> = others.iter().map(|&token| log_probability(&row, token)).collect();
        assert_follows(family, "logp of targets", Dtype::F32, &logp.read(), &truth, &truth, floor);
    });
}

fn log_probability(row: &[f64], token: u32) -> f64 {
    let largest = row.iter().copied().fold(f64::MIN, f64::max);
    row[token as usize] - largest - row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
}

#[test]
fn every_setting_chooses_as_the_cpu_does() {
    let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
    let settings = [
        Sampling::GREEDY,
        all,
        Sampling { temperature: 0.7, ..all },
        Sampling { top_k: 1, ..all },
        Sampling { top_k: 5, ..all },
        Sampling { top_p: 0.6, ..all },
        Sampling { top_p: 1e-9, ..all },
        Sampling { temperature: 1.3, top_k: 40, top_p: 0.9 },
    ];
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let logits: Vec<f64> = numbers(1003, 1).iter().map(|x| x * 5.0).collect();
        settings.iter().for_each(|&sampling| check(&logits, 1008, sampling, dtype));
    }
}

#[test]
fn ties_go_to_the_lower_token_even_in_long_runs() {
    let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
    let equal = vec![0.5; 700];
    let mut some = vec![-1.0; 700];
    some[3..650].fill(2.0);
    some[10] = -0.0;
    some[11] = 0.0;
    for logits in [&equal, &some] {
        for sampling in [Sampling::GREEDY, all, Sampling { top_k: 17, ..all }, Sampling { top_p: 0.25, ..all }] {
            check(logits, 704, sampling, Dtype::F32);
        }
    }
    check(&[1.0], 8, all, Dtype::F32);
}

#[test]
fn rows_of_nan_have_a_token_of_the_vocabulary() {
    on_every_executor(SOURCE.needs, |executor| {
        let logits = Array::poisoned(executor, 2 * 40, Dtype::F32);
        let uniform = Array::new(executor, &[0.3, 0.9], Dtype::F32);
        let logp = Array::new(executor, &[0.0; 2], Dtype::F32);
        let tokens = IndexArray::new(executor, &[u32::MAX; 2]);
        for temperature in [0.0, 1.0] {
            let args = Sample {
                tokens: tokens.indices(),
                logp: logp.operand(),
                logits: logits.operand(),
                uniform: uniform.operand(),
                targets: None,
                vocab: 40,
                pitch: 40,
                sampling: Sampling { temperature, top_k: 0, top_p: 0.9 },
            };
            run(executor, &[sample(&args).unwrap()]);
            assert!(tokens.read().iter().all(|&token| token < 40), "{:?}", tokens.read());
            assert!(logp.read().iter().all(|logp| logp.is_nan()));
        }
    });
}
