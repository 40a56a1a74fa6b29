use half::bf16;

use super::*;

#[test]
fn rows_are_copied_and_their_gradients_added() {
    let table: Vec<f32> = (0..12).map(|x| x as f32).collect();
    let ids = [2u32, 0, 2];
    let mut out = [f32::NAN; 9];
    forward(Forward { out: (&mut out[..]).into(), table: (&table[..]).into(), ids: &ids, dim: 3 }).unwrap();
    assert_eq!(out, [6.0, 7.0, 8.0, 0.0, 1.0, 2.0, 6.0, 7.0, 8.0]);
    let narrow: Vec<bf16> = table.iter().map(|&x| bf16::from_f32(x)).collect();
    let mut from_narrow = [f32::NAN; 9];
    forward(Forward { out: (&mut from_narrow[..]).into(), table: (&narrow[..]).into(), ids: &ids, dim: 3 }).unwrap();
    assert_eq!(out, from_narrow);

    let mut dtable = [1.0f64; 12];
    let dout: Vec<f64> = (1..10).map(f64::from).collect();
    backward(Backward { dtable: (&mut dtable[..]).into(), dout: (&dout[..]).into(), ids: &ids, dim: 3 }).unwrap();
    assert_eq!(dtable, [5.0, 6.0, 7.0, 1.0, 1.0, 1.0, 9.0, 11.0, 13.0, 1.0, 1.0, 1.0]);
}

#[test]
fn an_id_past_the_table_is_refused_before_anything_is_written() {
    let table = [0.0f32; 6];
    let mut out = [7.0f32; 4];
    let result = forward(Forward { out: (&mut out[..]).into(), table: (&table[..]).into(), ids: &[0, 3], dim: 2 });
    assert_eq!(
        result,
        Err(KernelError::IdOutOfRange { op: "embedding::forward", arg: "ids", index: 1, id: 3, limit: 3 })
    );
    assert_eq!(out, [7.0; 4]);
}

#[test]
fn rows_are_put_in_their_places() {
    let x = [1.0f32, 2.0, 3.0, 4.0];
    let mut out = [0.0f32; 8];
    let mut put =
        |indices: &[u32]| scatter(Scatter { out: (&mut out[..]).into(), x: (&x[..]).into(), indices, dim: 2 });
    assert_eq!(
        put(&[1, 4]),
        Err(KernelError::IdOutOfRange { op: "embedding::scatter", arg: "indices", index: 1, id: 4, limit: 4 })
    );
    put(&[3, 1]).unwrap();
    assert_eq!(out, [0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 1.0, 2.0]);
}
