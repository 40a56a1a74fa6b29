use super::*;

/// Runs `check` for every instruction set of this processor.
macro_rules! on_each {
    ($check:ident) => {{
        $check::<Portable>();
        #[cfg(target_arch = "x86_64")]
        {
            use crate::isa::Isa;
            if Isa::available().any(|isa| isa == Isa::Avx2) {
                #[target_feature(enable = "avx2,fma")]
                unsafe fn avx2() {
                    $check::<Avx2>();
                }
                // SAFETY: found at run time.
                unsafe { avx2() };
            }
            if Isa::available().any(|isa| isa == Isa::Avx512) {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                unsafe fn avx512() {
                    $check::<Avx512>();
                }
                // SAFETY: found at run time.
                unsafe { avx512() };
            }
        }
    }};
}

#[inline(always)]
fn apply<L: Lanes>(x: [f32; WIDTH], f: impl Fn(L) -> L) -> [f32; WIDTH] {
    let mut y = [0.0; WIDTH];
    // SAFETY: arrays of sixteen; `on_each` found the instructions.
    unsafe { f(L::load(x.as_ptr())).store(y.as_mut_ptr()) };
    y
}

#[test]
fn the_exponential_is_within_two_units_of_the_exact_one() {
    #[inline(always)]
    fn check<L: Lanes>() {
        let mut worst = 0.0f64;
        for block in -5400..5500i32 {
            let x: [f32; WIDTH] = std::array::from_fn(|i| (block * 16 + i as i32) as f32 * 1e-3);
            // SAFETY: `on_each` found the instructions.
            let y = apply::<L>(x, |x| unsafe { x.exp() });
            for (x, y) in x.into_iter().zip(y).filter(|(x, _)| (-87.0..=88.0).contains(x)) {
                let exact = f64::from(x).exp();
                worst = worst.max((f64::from(y) - exact).abs() / (exact * f64::from(f32::EPSILON)));
            }
        }
        assert!(worst < 2.0, "{worst}");
        // SAFETY: as above.
        let ends = apply::<L>([f32::NEG_INFINITY; WIDTH], |x| unsafe { x.exp() });
        assert_eq!(ends, [0.0; WIDTH]);
        // SAFETY: as above.
        assert!(apply::<L>([f32::NAN; WIDTH], |x| unsafe { x.exp() }).iter().all(|x| x.is_nan()));
    }
    on_each!(check);
}

#[test]
fn a_transpose_swaps_rows_and_columns() {
    #[inline(always)]
    fn check<L: Lanes>() {
        // SAFETY: `on_each` found the instructions.
        unsafe {
            let source: [[f32; WIDTH]; WIDTH] = std::array::from_fn(|i| std::array::from_fn(|j| (i * 100 + j) as f32));
            let mut rows = source.map(|row| L::load(row.as_ptr()));
            L::transpose(&mut rows);
            for (j, row) in rows.iter().enumerate() {
                let mut y = [0.0; WIDTH];
                row.store(y.as_mut_ptr());
                assert!(y.iter().enumerate().all(|(i, &y)| y == source[i][j]));
            }
        }
    }
    on_each!(check);
}

#[test]
fn products_of_every_small_shape_are_exact_on_integers() {
    #[inline(always)]
    fn check<L: Lanes>() {
        for (rows, vectors, depth) in (1..20).flat_map(|m| (1..6).flat_map(move |n| [0, 1, 7].map(|k| (m, n, k)))) {
            for (accumulate, a_is_transposed) in [(false, false), (true, true)] {
                let width = vectors * WIDTH;
                let a: Vec<f32> = (0..rows * depth).map(|i| (i % 11) as f32 - 5.0).collect();
                let b: Vec<f32> = (0..depth * width).map(|i| (i % 7) as f32 - 3.0).collect();
                let mut c = vec![2.0f32; rows * (width + 3)];
                let (a_row, a_column) = if a_is_transposed { (1, rows) } else { (depth, 1) };
                let (c_row, c_start) = (width + 3, c.as_mut_ptr());
                let x = Product {
                    c: c_start,
                    c_row,
                    a: a.as_ptr(),
                    a_row,
                    a_column,
                    b: b.as_ptr(),
                    b_row: width,
                    rows,
                    vectors,
                    depth,
                    accumulate,
                };
                // SAFETY: the sizes are those of the vectors; `on_each` found the instructions.
                unsafe { L::product(&x) };
                for i in 0..rows {
                    for j in 0..c_row {
                        let sum: f32 = (0..depth)
                            .map(|p| a[i * a_row + p * a_column] * b.get(p * width + j).unwrap_or(&0.0))
                            .sum();
                        let want = if j >= width {
                            2.0
                        } else if accumulate {
                            2.0 + sum
                        } else {
                            sum
                        };
                        assert_eq!(c[i * c_row + j], want);
                    }
                }
            }
        }
    }
    on_each!(check);
}
