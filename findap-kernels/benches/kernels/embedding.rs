//! Rows of a table of 32,000 by 768 for 2048 tokens, and their gradients.

use criterion::Criterion;
use findap_kernels::embedding::{Backward, Forward, backward, forward};

use crate::support::{bytes, group, measure, numbers};

pub(crate) fn benches(c: &mut Criterion) {
    let (vocab, dim, n) = (32_000, 768, 2048);
    let (table, dout) = (numbers(1, vocab * dim), numbers(2, n * dim));
    // A stride that is prime to the vocabulary: every row once, none beside the last.
    let ids: Vec<u32> = (0..n).map(|t| (t * 7919 % vocab) as u32).collect();
    let (mut out, mut dtable) = (vec![0.0f32; n * dim], vec![0.0f32; vocab * dim]);
    let mut fwd = group(c, "embedding_fwd", bytes(2 * n * dim));
    measure(&mut fwd, "2048 rows of 768", || {
        forward(Forward { out: (&mut out[..]).into(), table: (&table[..]).into(), ids: &ids, dim }).unwrap();
    });
    fwd.finish();
    for (row, id) in out.chunks(dim).zip(&ids) {
        assert_eq!(row, &table[*id as usize * dim..][..dim]);
    }
    backward(Backward { dtable: (&mut dtable[..]).into(), dout: (&dout[..]).into(), ids: &ids, dim }).unwrap();
    for (row, id) in dout.chunks(dim).zip(&ids) {
        assert_eq!(row, &dtable[*id as usize * dim..][..dim], "no id comes twice, so nothing is added up");
    }
    let mut bwd = group(c, "embedding_bwd", bytes(3 * n * dim));
    bwd.bench_function("2048 rows of 768", |bench| {
        bench.iter(|| {
            backward(Backward { dtable: (&mut dtable[..]).into(), dout: (&dout[..]).into(), ids: &ids, dim }).unwrap();
        });
    });
    bwd.finish();
}
