use super::super::{Shape, reference};
use super::*;
use crate::cuda::tests::cases::{Array, assert_follows, numbers, on_every_executor, rounded, run, to_f32, wide};
use crate::cuda::{Matrix, Operand};
use crate::tolerance::floor;

/// A matrix with rows `pitch` apart; what lies between them is NaN, which must not reach a result.
fn spread(x: &[f64], columns: usize, pitch: usize) -> Vec<f64> {
    let row = |row: &[f64]| [row, &vec![f64::NAN; pitch - columns]].concat();
    x.chunks(columns).flat_map(row).collect()
}

fn check(shape: Shape, dtypes: [Dtype; 2]) {
    let Shape { m, n, k, transpose_a, transpose_b, write } = shape;
    let [dtype, dtype_c] = dtypes;
    let (a, b) = (rounded(&numbers(m * k, 1), dtype), rounded(&numbers(k * n, 2), dtype));
    let old = rounded(&numbers(m * n, 3), dtype_c);
    let mut truth = old.clone();
    reference::gemm(shape, &a, &b, &mut truth);
    let mut naive = to_f32(&old);
    reference::gemm(shape, &to_f32(&a), &to_f32(&b), &mut naive);
    let columns_a = if transpose_a { m } else { k };
    let columns_b = if transpose_b { k } else { n };
    let pitch = |columns: usize| columns.next_multiple_of(8) + 8;
    on_every_executor(SOURCE.needs, |executor| {
        let array = |x: &[f64], columns, dtype| Array::new(executor, &spread(x, columns, pitch(columns)), dtype);
        let matrix = |array: &Array<'_>, columns| Matrix { elements: array.operand(), pitch: pitch(columns) };
        let (a, b) = (array(&a, columns_a, dtype), array(&b, columns_b, dtype));
        let c = match write {
            Write::Accumulate => array(&old, n, dtype_c),
            Write::Overwrite => Array::poisoned(executor, m * pitch(n), dtype_c),
        };
        let args = Product {
            m,
            n,
            k,
            a: matrix(&a, columns_a),
            transpose_a,
            b: matrix(&b, columns_b),
            transpose_b,
            c: matrix(&c, n),
            write,
        };
        run(executor, &[launch(&args).unwrap()]);
        let check = |numbers: Vec<f64>| {
            let (rows, between): (Vec<&[f64]>, Vec<&[f64]>) =
                numbers.chunks(pitch(n)).map(|row| row.split_at(n)).unzip();
            assert!(between.concat().iter().all(|x| x.is_nan()), "written between the rows");
            let family = match dtypes {
                [Dtype::F32, _] => "matmul f32",
                [_, Dtype::Bf16] => "matmul bf16",
                _ => "matmul bf16 to f32",
            };
            // every term is below 1, and the sums are made in f32
            let what = format!("{shape:?}");
            assert_follows(family, &what, dtype_c, &rows.concat(), &wide(&naive), &truth, floor(1.0, k + 1));
        };
        check(c.read());
        let by_library = match write {
            Write::Accumulate => array(&old, n, dtype_c),
            Write::Overwrite => Array::poisoned(executor, m * pitch(n), dtype_c),
        };
        // SAFETY: the operands are those of the launch before, but for `c`, which is another array of the same size.
        if let Some(result) = unsafe { executor.multiply(&Product { c: matrix(&by_library, n), ..args }) } {
            result.unwrap();
            check(by_library.read());
        }
    });
}

#[test]
fn every_transpose_format_and_write_mode_follows_the_truth() {
    let (f, b) = (Dtype::F32, Dtype::Bf16);
    for (m, n, k) in [(1, 1, 1), (3, 72, 40), (65, 9, 33), (64, 64, 64), (37, 130, 70)] {
        for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)] {
            for (dtypes, write) in [
                ([f, f], Write::Overwrite),
                ([b, b], Write::Accumulate),
                ([b, f], Write::Accumulate),
                ([b, b], Write::Overwrite),
            ] {
                check(Shape { m, n, k, transpose_a, transpose_b, write }, dtypes);
            }
        }
    }
}

#[test]
fn what_the_kernel_cannot_read_is_refused() {
    let matrix = |address, len, dtype, pitch| Matrix { elements: Operand { address, len, dtype }, pitch };
    let b = matrix(256, 64, Dtype::Bf16, 8);
    let good =
        Product { m: 8, n: 8, k: 8, a: b, transpose_a: false, b, transpose_b: false, c: b, write: Write::Overwrite };
    assert!(launch(&good).is_ok());
    for bad in [
        Product { a: matrix(256, 63, Dtype::Bf16, 8), ..good },
        Product { a: matrix(258, 64, Dtype::Bf16, 8), ..good },
        Product { b: matrix(256, 200, Dtype::Bf16, 12), ..good },
        Product { c: matrix(256, 64, Dtype::Bf16, 7), ..good },
        Product { a: matrix(256, 64, Dtype::F32, 8), ..good },
        Product { m: 0, ..good },
    ] {
        assert!(launch(&bad).is_err(), "{bad:?}");
    }
}
