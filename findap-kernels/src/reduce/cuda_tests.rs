use super::super as cpu;
use super::*;
use crate::cuda::tests::cases::{
    Array, IndexArray, assert_follows, numbers, on_every_executor, rounded, run, to_f32, wide,
};

fn check_sum(n: usize, dtype: Dtype) {
    let x = rounded(&numbers(n, 1), dtype);
    let truth = cpu::sum_squares((&x[..]).into());
    let naive = f64::from(x.iter().map(|&x| x as f32 * x as f32).sum::<f32>());
    on_every_executor(SOURCE.needs, |executor| {
        let x = Array::new(executor, &x, dtype);
        let total = Array::new(executor, &[2.0], Dtype::F64);
        let scratch = Array::poisoned(executor, SUM_SQUARES_SCRATCH_LEN, Dtype::F64);
        let sum = |write| {
            let launches = sum_squares(&total.operand(), write, &x.operand(), &scratch.operand());
            run(executor, &launches.unwrap());
            total.read()[0]
        };
        // each square and each sum of a load is rounded by f32
        let floor = 1e-6 * truth;
        let family = if dtype == Dtype::Bf16 { "reduce bf16" } else { "reduce f32" };
        let first = sum(Write::Overwrite);
        assert_follows(family, "sum of squares", Dtype::F32, &[first], &[naive], &[truth], floor);
        assert_eq!(sum(Write::Accumulate), 2.0 * first);
        assert_eq!(sum(Write::Overwrite), first, "the same bits on every run");
    });
}

#[test]
fn sums_of_every_length_follow_the_truth() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for n in [1, 7, 256, 8191, 40_003] {
            check_sum(n, dtype);
        }
    }
}

#[test]
fn bad_numbers_are_counted_wherever_they_are() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let mut x = numbers(5003, 2);
        (x[0], x[2501], x[5002]) = (f64::NAN, f64::INFINITY, f64::NEG_INFINITY);
        on_every_executor(SOURCE.needs, |executor| {
            let (x, count) = (Array::new(executor, &x, dtype), IndexArray::new(executor, &[4]));
            run(executor, &[count_bad(count.indices().address, &x.operand()).unwrap()]);
            assert_eq!(count.read(), [7]);
        });
    }
}

#[test]
fn additions_and_conversions_round_once() {
    for n in [1, 9, 2050] {
        let (x, y) = (rounded(&numbers(n, 3), Dtype::F32), rounded(&numbers(n, 4), Dtype::F32));
        on_every_executor(SOURCE.needs, |executor| {
            let (a, b) = (Array::new(executor, &x, Dtype::F32), Array::new(executor, &y, Dtype::F32));
            run(executor, &[add(&a.operand(), &b.operand()).unwrap()]);
            let mut sum = to_f32(&x);
            cpu::add((&mut sum[..]).into(), (&to_f32(&y)[..]).into()).unwrap();
            assert_eq!(a.read(), wide(&sum));
            let low = Array::poisoned(executor, n, Dtype::Bf16);
            run(executor, &[cast(&low.operand(), &b.operand(), Rounding::Nearest).unwrap()]);
            assert_eq!(low.read(), rounded(&y, Dtype::Bf16));
            run(executor, &[cast(&a.operand(), &low.operand(), Rounding::Nearest).unwrap()]);
            assert_eq!(a.read(), low.read(), "back to f32 is exact");
            run(executor, &[add(&low.operand(), &low.operand()).unwrap()]);
            let doubled: Vec<f64> = rounded(&y, Dtype::Bf16).iter().map(|y| 2.0 * y).collect();
            assert_eq!(low.read(), doubled);
            run(executor, &[add(&low.operand(), &b.operand()).unwrap()]);
            let mut sum = to_f32(&doubled);
            cpu::add((&mut sum[..]).into(), (&to_f32(&y)[..]).into()).unwrap();
            assert_eq!(low.read(), rounded(&wide(&sum), Dtype::Bf16), "the sum of f32, rounded once");
        });
    }
}

#[test]
fn stochastic_rounding_keeps_the_mean() {
    const N: usize = 8192;
    // 1/4 of the way from 1 to the next bf16, 1 + 2^-7
    let x = 1.0 + 0.25 / 128.0;
    on_every_executor(SOURCE.needs, |executor| {
        let source = Array::new(executor, &[x; N], Dtype::F32);
        let round = |stream| {
            let low = Array::poisoned(executor, N, Dtype::Bf16);
            let rounding = Rounding::Stochastic { stream, seed: 7 };
            run(executor, &[cast(&low.operand(), &source.operand(), rounding).unwrap()]);
            low.read()
        };
        let low = round(1);
        assert!(low.iter().all(|&y| y == 1.0 || y == 1.0 + 1.0 / 128.0));
        let share = low.iter().filter(|&&y| y > 1.0).count() as f64 / N as f64;
        // five standard deviations of the share: sqrt(p (1 - p) / n)
        assert!((share - 0.25).abs() < 5.0 * (0.25 * 0.75 / N as f64).sqrt(), "{share}");
        assert_eq!(low, round(1), "a function of place, stream and seed");
        assert_ne!(low, round(2));
    });
}

/// The test vectors of the authors' library (Random123, `kat_vectors`), ten rounds of Philox 4x32.
#[test]
fn the_random_bits_are_those_of_philox() {
    // counter and key all zero: 6627e8d5 e169c58d bc57ac4c 9b00dbd8. Eight halves decide about eight numbers: with a fraction
    // of f / 65536 of a unit, a number goes up exactly where its half is at least 65536 - f.
    let halves = [0xe8d5u32, 0x6627, 0xc58d, 0xe169, 0xac4c, 0xbc57, 0xdbd8, 0x9b00];
    on_every_executor(SOURCE.needs, |executor| {
        for (i, &half) in halves.iter().enumerate() {
            for (fraction, goes_up) in [(65536 - half, true), (65535 - half, false)] {
                let x = f64::from(f32::from_bits(0x3f80_0000 | fraction));
                let (x, low) = (Array::new(executor, &[x; 8], Dtype::F32), Array::poisoned(executor, 8, Dtype::Bf16));
                let rounding = Rounding::Stochastic { stream: 0, seed: 0 };
                run(executor, &[cast(&low.operand(), &x.operand(), rounding).unwrap()]);
                assert_eq!(low.read()[i] > 1.0, goes_up, "half {i}");
            }
        }
    });
}

#[test]
fn a_sum_grows_by_a_multiple_of_another() {
    let x = rounded(&numbers(1000, 5), Dtype::F32);
    on_every_executor(SOURCE.needs, |executor| {
        let (total, x_array) = (Array::new(executor, &[2.0], Dtype::F64), Array::new(executor, &x, Dtype::F32));
        run(executor, &[add_sum(&total.operand(), 0.5, &x_array.operand()).unwrap()]);
        // numbers with 24 bits below 1: their sums are exact in f64
        assert_eq!(total.read(), [2.0 + 0.5 * x.iter().sum::<f64>()]);
    });
}

#[test]
fn a_factor_multiplies_every_number_and_rounds_once() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for n in [1, 9, 2050] {
            let x = rounded(&numbers(n, 5), dtype);
            let want: Vec<f64> = x.iter().map(|&x| f64::from(x as f32 * 0.7f32)).collect();
            on_every_executor(SOURCE.needs, |executor| {
                let a = Array::new(executor, &x, dtype);
                run(executor, &[scale(&a.operand(), 0.7).unwrap()]);
                assert_eq!(a.read(), rounded(&want, dtype), "{n} of {}", dtype.name());
            });
        }
    }
    let odd = Operand { address: 8, len: 4, dtype: Dtype::F32 };
    assert!(matches!(scale(&odd, 2.0), Err(KernelError::BadArgument { .. })));
}
