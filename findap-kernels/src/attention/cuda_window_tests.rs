//! Windows: what they hide, what they leave, and what they cost.

use super::*;

#[test]
fn windows_hide_whole_steps_and_parts_of_them() {
    for window in [2, 63, 64, 65, 150] {
        check_window_of(&[200, 3], 2, 1, 64, Some(window));
    }
    check_window_of(&[5, 1, 130], 4, 2, 64, Some(7));
    check_window_of(&[150], 1, 1, 128, Some(40));
}

/// The truth has gradients of scores that are 0, so that its size does not bound their rounding.
#[test]
fn a_token_that_sees_itself_alone_has_its_value() {
    for head_dim in [64, 128] {
        let mut c = case(&[140, 3], 2, 1, head_dim);
        c.heads.window = Some(1);
        let truth = truth(&c);
        on_every_executor(SOURCE.needs, |executor| {
            for target in targets(executor, head_dim) {
                let [out, _, dq, dk, dv] = run_both(executor, &c, target, false);
                for (token, out) in out.chunks_exact(2 * head_dim).enumerate() {
                    let value = &c.v[token * head_dim..][..head_dim];
                    assert_eq!(out, [value, value].concat(), "token {token}, {target:?}");
                }
                // a probability of 1 to 2^-20 or so, and the sum of two heads, rounded once to 8 bits
                let holds = dv.iter().zip(&truth[4]).all(|(got, truth)| (got - truth).abs() <= truth.abs() / 250.0);
                assert!(holds, "dv, {target:?}");
                // dout v in two orders: head_dim products of 2 times 2, each sum rounded by 2^-24 of at most 4 head_dim
                let bound = head_dim as f64 * (4 * head_dim) as f64 / 2f64.powi(24);
                let largest = [dq, dk].concat().into_iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
                assert!(largest <= bound, "{largest} of {bound}, {target:?}");
            }
        });
    }
}

#[test]
fn what_a_window_hides_changes_no_bit() {
    for window in [1, 17, 64, 100] {
        let mut c = case(&[200], 1, 1, 64);
        c.heads.window = Some(window);
        let mut moved = c.clone();
        let hidden = 160 - window + 1;
        for x in [&mut moved.k, &mut moved.v] {
            x[..hidden * 64].fill(7.0);
        }
        on_every_executor(SOURCE.needs, |executor| {
            for target in targets(executor, 64) {
                let [before, after] = [&c, &moved].map(|c| run_both(executor, c, target, false));
                for (i, row) in [(0, 64), (1, 1), (2, 64)] {
                    let of = |x: &Outputs| x[i][160 * row..].to_vec();
                    assert_eq!(of(&before), of(&after), "{} of window {window}, {target:?}", NAMES[i]);
                }
                assert_ne!(before[0][159 * 64..160 * 64], after[0][159 * 64..160 * 64]);
            }
        });
    }
}

#[test]
fn queries_that_do_not_see_a_key_change_no_bit_of_its_gradients() {
    for window in [1, 17, 64, 100] {
        let mut c = case(&[200], 1, 1, 64);
        c.heads.window = Some(window);
        let mut moved = c.clone();
        // the last key that the moved queries do not see
        let last = 40;
        for x in [&mut moved.q, &mut moved.dout] {
            x[(last + window) * 64..].fill(1.5);
        }
        on_every_executor(SOURCE.needs, |executor| {
            for target in targets(executor, 64) {
                let [before, after] = [&c, &moved].map(|c| run_both(executor, c, target, false));
                for i in [3, 4] {
                    let what = format!("{} of window {window}, {target:?}", NAMES[i]);
                    assert_eq!(before[i][..(last + 1) * 64], after[i][..(last + 1) * 64], "{what}");
                }
                assert_ne!(before[4][(last + 1) * 64..][..64], after[4][(last + 1) * 64..][..64]);
            }
        });
    }
}

#[test]
fn a_window_that_hides_nothing_changes_no_bit() {
    for (head_dim, target) in [(64, Target::Ampere), (128, Target::SmallAmpere)] {
        let none = case(&[150, 20], 2, 1, head_dim);
        for window in [150, 1000, usize::MAX] {
            let mut wide = none.clone();
            wide.heads.window = Some(window);
            on_every_executor(SOURCE.needs, |executor| {
                let [none, wide] = [&none, &wide].map(|c| run_both(executor, c, target, false));
                assert!(none == wide, "{window}, {target:?}");
            });
        }
    }
}

/// kernel_sm90.cu has no windows: its masks know the diagonal alone.
#[test]
fn layers_with_a_window_run_the_kernels_of_ampere_on_hopper() {
    let of = |len, dtype| Operand { address: 256, len, dtype };
    let tiles = Tiles::new(&[0, 4]).unwrap().placed_at(Indices { address: 0, len: 8 }).unwrap();
    let launches = |target, window| {
        let heads = Heads { num_heads: 2, num_kv_heads: 1, head_dim: 128, scale: 0.125, window };
        let [q, k] = [8, 4].map(|rows| of(rows * 128, Dtype::Bf16));
        let [lse, statistics] = [8, statistics_len(4, heads)].map(|len| of(len, Dtype::F32));
        let forward_args = Forward { out: q, out_f32: None, lse, q, k, v: k, tiles, heads, target };
        let (dout, dq, dk, dv) = (q, q, k, k);
        let args = Backward { dq, dk, dv, dout, out: q, lse, q, k, v: k, statistics, tiles, heads, target };
        [forward(&forward_args).unwrap(), backward(&args).unwrap()].concat()
    };
    let hopper = Target::of((9, 0), 132, 227 * 1024);
    for window in [1, 4, 4096] {
        assert_eq!(launches(hopper, Some(window)), launches(Target::Ampere, Some(window)));
    }
    let [statistics, rest @ ..] = [1, 0, 2, 3].map(|i| launches(hopper, None)[i].source.file);
    assert_eq!((statistics, rest), (SOURCE.file, [SOURCE_SM90.file; 3]), "the statistics are one kernel for both");
    let small = |window| launches(Target::SmallAmpere, window).into_iter().map(|launch| launch.kernel);
    assert!(small(None).eq(small(Some(4))), "a window asks for no more shared memory");
}

/// What the emulator counts of the launches of these kernels.
#[cfg(feature = "emulator")]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Work {
    products: u64,
    barriers: u64,
}

#[cfg(feature = "emulator")]
fn work(launch: &Launch) -> Work {
    // SAFETY: the launches come from checked arguments over arrays of this executor.
    let counted = unsafe { Emulator { options: Options::PLAIN }.launch_counted(launch) }.unwrap();
    Work { products: counted.matrix_products, barriers: counted.barriers }
}

/// Pairs of `rows` queries and `columns` keys, of a document of `n` tokens, of which some query sees some key.
#[cfg(feature = "emulator")]
fn seen_pairs(n: usize, rows: usize, columns: usize, window: usize) -> u64 {
    let starts = (0..n).step_by(rows).flat_map(|query| (0..n).step_by(columns).map(move |key| (query, key)));
    let is_seen = |(query, key): &(usize, usize)| {
        (*query..query + rows).any(|i| (*key..key + columns).any(|j| j <= i && i < j + window))
    };
    starts.filter(is_seen).count() as u64
}

/// Blocks copy, and warps multiply, only steps of which they see a part: the work of a long document grows with its length times the
/// window.
#[cfg(feature = "emulator")]
#[test]
fn kernels_visit_only_steps_that_a_window_shows() {
    // whole tiles, so that no warp has rows past the end
    let n = 512;
    for window in [None, Some(1), Some(64), Some(65), Some(130), Some(400)] {
        let mut c = case(&[n as u32], 1, 1, 64);
        c.heads.window = window;
        let shown = window.unwrap_or(n);
        let counted = RefCell::<Vec<(&str, Work)>>::default();
        let count = |launch: &mut Launch| counted.borrow_mut().push((launch.kernel, work(launch)));
        run_edited(&Emulator { options: Options::PLAIN }, &c, Target::Ampere, false, count).unwrap();
        // a step is a square of products of 16 x 8 x 16, and passes so many barriers
        let products = |rows: usize, squares: usize| (squares * rows / 16 * (64 / 8) * (64 / 16)) as u64;
        let queries = seen_pairs(n, TILE_ROWS, KEYS, shown);
        let want = [
            ("attention_forward_d64", products(32, 2) * seen_pairs(n, 32, KEYS, shown), 2 * queries),
            ("attention_statistics_d64", 0, 0),
            (
                "attention_key_gradient_d64",
                products(16, 4) * seen_pairs(n, QUERIES, 16, shown),
                seen_pairs(n, QUERIES, TILE_ROWS, shown),
            ),
            ("attention_query_gradient_d64", products(16, 3) * seen_pairs(n, 16, KEYS, shown), queries),
        ];
        let want = want.map(|(kernel, products, barriers)| (kernel, Work { products, barriers }));
        assert_eq!(*counted.borrow(), want, "window {window:?}");
    }
}

#[cfg(feature = "emulator")]
#[test]
fn decoding_visits_only_steps_that_a_window_shows() {
    let len = 1100;
    for window in [None, Some(1), Some(20), Some(64), Some(600), Some(1100)] {
        let mut c = decode_case(&[len], 48, 2, 1, 64);
        c.heads.window = window;
        let products = std::cell::Cell::new(0);
        let counted = |args: &Decode| {
            let launches = decode(args)?;
            products.set(work(&launches[0]).products);
            Ok(launches)
        };
        run_decode(&Emulator { options: Options::PLAIN }, &c, &[0], counted, Dtype::Bf16);
        // the four warps of a block take 64 keys at a time, 16 each
        let hidden = (len as usize).saturating_sub(window.unwrap_or(usize::MAX));
        let steps = (hidden / 64 * 64..len as usize).step_by(16).count() as u64;
        // scores and sums: 8 products of 16 x 8 x 16 for each
        assert_eq!(products.get(), 16 * steps, "window {window:?}");
    }
}
