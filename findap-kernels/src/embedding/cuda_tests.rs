use super::super as cpu;
use super::*;
use crate::cuda::tests::cases::{
    Array, IndexArray, assert_follows, numbers, on_every_executor, rounded, run, to_f32, wide,
};
use crate::tolerance::floor;

/// In the formats of activations, of the table and of its gradient.
fn check(count: usize, vocab: usize, dim: usize, dtypes: [Dtype; 3]) {
    let [out_dtype, table_dtype, gradient_dtype] = dtypes;
    let ids: Vec<u32> = (0..count).map(|t| (t * t * 7 % vocab) as u32).collect();
    let table = rounded(&numbers(vocab * dim, 1), table_dtype);
    let dout = rounded(&numbers(count * dim, 2), out_dtype);
    let old = rounded(&numbers(vocab * dim, 3), gradient_dtype);
    let (mut truth, mut naive) = (old.clone(), to_f32(&old));
    let (dtable, dout64) = ((&mut truth[..]).into(), (&dout[..]).into());
    cpu::backward(cpu::Backward { dtable, dout: dout64, ids: &ids, dim }).unwrap();
    let (dtable, low) = ((&mut naive[..]).into(), to_f32(&dout));
    cpu::backward(cpu::Backward { dtable, dout: (&low[..]).into(), ids: &ids, dim }).unwrap();
    on_every_executor(SOURCE.needs, |executor| {
        let table_array = Array::new(executor, &table, table_dtype);
        let out = Array::poisoned(executor, count * dim, out_dtype);
        let on_device = IndexArray::new(executor, &ids);
        let args = Forward { out: out.operand(), table: table_array.operand(), ids: on_device.indices(), dim };
        run(executor, &[forward(&args).unwrap()]);
        let rows: Vec<f64> = ids.iter().flat_map(|&id| table[id as usize * dim..][..dim].to_vec()).collect();
        assert_eq!(out.read(), rows, "copies are exact");
        let SortedIds { tokens, starts, positions } = sort(&ids);
        let (tokens, starts) = (IndexArray::new(executor, &tokens), IndexArray::new(executor, &starts));
        let positions = IndexArray::new(executor, &positions);
        let (dtable, dout) = (Array::new(executor, &old, gradient_dtype), Array::new(executor, &dout, out_dtype));
        let args = Backward {
            dtable: dtable.operand(),
            dout: dout.operand(),
            tokens: tokens.indices(),
            starts: starts.indices(),
            positions: positions.indices(),
            dim,
        };
        run(executor, &[backward(&args).unwrap()]);
        let family = if out_dtype == Dtype::Bf16 { "embedding bf16" } else { "embedding f32" };
        let floor = floor(1.0, count.div_ceil(vocab).max(1));
        assert_follows(family, "dtable", gradient_dtype, &dtable.read(), &wide(&naive), &truth, floor);
        // the sum goes in the order of the tokens, as on the CPU, and is rounded once
        assert_eq!(dtable.read(), rounded(&wide(&naive), gradient_dtype));
    });
}

#[test]
fn every_shape_and_format_is_exact() {
    const F: Dtype = Dtype::F32;
    const B: Dtype = Dtype::Bf16;
    for dtypes in [[F, F, F], [F, B, F], [B, B, F], [B, B, B]] {
        for (count, vocab, dim) in [(1, 1, 8), (40, 11, 24), (100, 500, 136), (3, 4, 2056)] {
            check(count, vocab, dim, dtypes);
        }
    }
}

#[test]
fn rows_reach_their_places_and_no_others() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for (count, rows, dim) in [(1, 1, 8), (30, 77, 24), (5, 9, 2056)] {
            let indices: Vec<u32> = (0..count).map(|t| (t * 4 % rows) as u32).collect();
            let x = rounded(&numbers(count * dim, 1), dtype);
            let old = rounded(&numbers(rows * dim, 2), dtype);
            let mut want = old.clone();
            let out = (&mut want[..]).into();
            cpu::scatter(cpu::Scatter { out, x: (&x[..]).into(), indices: &indices, dim }).unwrap();
            on_every_executor(SOURCE.needs, |executor| {
                let (out, x) = (Array::new(executor, &old, dtype), Array::new(executor, &x, dtype));
                let on_device = IndexArray::new(executor, &indices);
                let args = Scatter { out: out.operand(), x: x.operand(), indices: on_device.indices(), dim };
                run(executor, &[scatter(&args).unwrap()]);
                assert_eq!(out.read(), want, "{dtype} {count} of {rows} rows of {dim}");
            });
        }
    }
}

#[test]
fn sorting_keeps_places_in_order() {
    let sorted = sort(&[5, 2, 5, 0, 2, 5]);
    let want = SortedIds { tokens: vec![0, 2, 5], starts: vec![0, 1, 3, 6], positions: vec![3, 1, 4, 0, 2, 5] };
    assert_eq!(sorted, want);
    assert_eq!(sort(&[]), SortedIds { tokens: vec![], starts: vec![0], positions: vec![] });
}
