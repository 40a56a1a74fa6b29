//! The definition: three loops.
#![cfg_attr(not(test), allow(dead_code, reason = "the definition that tests compare the fast products with"))]

use super::Shape;
use crate::dtype::{Element, Real};
use crate::slice::Write;

pub(super) fn gemm<T: Real, B: Element>(shape: Shape, a: &[T], b: &[B], c: &mut [T]) {
    let Shape { m, n, k, transpose_a, transpose_b, write } = shape;
    for i in 0..m {
        for j in 0..n {
            let mut sum = T::ZERO;
            for p in 0..k {
                let x = if transpose_a { a[p * m + i] } else { a[i * k + p] };
                let y = if transpose_b { b[j * k + p] } else { b[p * n + j] };
                sum += x * y.load::<T>();
            }
            match write {
                Write::Overwrite => c[i * n + j] = sum,
                Write::Accumulate => c[i * n + j] += sum,
            }
        }
    }
}
