use findap_tensor::{DeviceKind, Dtype};
use serde_json::json;

use super::plan::{Plan, Row};
use super::*;
use crate::lora::Targets;

fn config(model_type: &str) -> Config {
    let serde_json::Value::Object(config) = json!({
        "model_type": model_type, "vocab_size": 128_256, "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 14_336,
    }) else {
        unreachable!("an object was written")
    };
    Config::from_json(config).unwrap()
}

fn options(recompute: Recompute, gradients: Option<Dtype>, frozen_blocks: usize) -> SessionOptions {
    SessionOptions {
        dtype: Dtype::Bf16,
        max_tokens: 8192,
        max_positions: 8192,
        recompute,
        gradients,
        frozen_blocks,
        lora: None,
    }
}

fn plan(model_type: &str, options: SessionOptions) -> Plan {
    Plan::new(DeviceKind::Cuda, &config(model_type), options)
}

#[test]
#[expect(clippy::print_stdout, reason = "the plan is worth reading")]
fn the_plan_of_a_block_is_one_table() {
    let plans = Recompute::ALL.map(|recompute| plan("llama", options(recompute, Some(Dtype::F32), 0)));
    println!(
        "{:<22} {:<20} {:>7} {:>5} {:>5} {:>5} {:>5}",
        "buffer", "purpose", "columns", "dtype", "none", "mlp", "block"
    );
    let [none, mlp, block] = plans.each_ref().map(|plan| plan.rows.named());
    for (((name, row), (_, mlp)), (_, block)) in none.iter().zip(&mlp).zip(&block) {
        let Row { purpose, columns, dtype, slots, .. } = row;
        println!(
            "{name:<22} {purpose:<20} {columns:>7} {:>5} {slots:>5} {:>5} {:>5}",
            dtype.name(),
            mlp.slots,
            block.slots
        );
    }
    let slots = |plan: &Plan| [plan.rows.residual.slots, plan.rows.attention_out.slots, plan.rows.gate.slots];
    assert_eq!(plans.each_ref().map(slots), [[32, 32, 32], [32, 32, 1], [32, 1, 1]]);
    let unused: Vec<&str> = none.iter().filter(|(_, row)| row.slots == 0).map(|(name, _)| *name).collect();
    let of_adapter = ["q_low", "k_low", "v_low", "o_low", "gate_low", "up_low", "down_low", "d_low"];
    let of_head_norm = ["q_projected", "q_rstd", "k_projected", "k_rstd", "d_q_projected", "d_k_projected"];
    assert!(unused.iter().all(|name| of_adapter.contains(name) || of_head_norm.contains(name)), "{unused:?}");
    assert_eq!(unused.len(), of_adapter.len() + of_head_norm.len());
}

#[test]
fn an_adapter_keeps_its_low_rank_part_as_long_as_the_layer_keeps_its_result() {
    let targets = Targets::from_names(["q_proj", "gate_proj", "down_proj"]).unwrap();
    let lora = Some(Lora { rank: 16, alpha: 32.0, targets, is_rank_stabilized: false });
    let slots = Recompute::ALL.map(|recompute| {
        let rows = plan("llama", SessionOptions { lora, ..options(recompute, Some(Dtype::F32), 0) }).rows;
        assert_eq!([rows.q_low.columns, rows.down_low.columns, rows.d_low.columns, rows.d_low.slots], [16, 16, 16, 1]);
        [rows.q_low.slots, rows.v_low.slots, rows.gate_low.slots, rows.down_low.slots]
    });
    assert_eq!(slots, [[32, 0, 32, 32], [32, 0, 1, 32], [1, 0, 1, 32]]);
}

#[test]
fn a_head_norm_keeps_what_it_read_in_place_of_what_it_gave() {
    let rows = plan("qwen3", options(Recompute::None, Some(Dtype::F32), 0)).rows;
    assert_eq!(
        [rows.q_projected.slots, rows.k_rstd.slots, rows.q.slots, rows.k.slots, rows.v.slots],
        [32, 32, 1, 1, 32]
    );
}

#[test]
fn the_first_layers_have_slots_of_their_own_and_the_last_is_still_in_memory() {
    let rows = plan("llama", options(Recompute::Mlp, Some(Dtype::F32), 0)).rows;
    assert_eq!([0, 1, 31].map(|l| (rows.v.slot(l), rows.v.keeps(l))), [(0, true), (1, true), (31, true)]);
    assert_eq!([0, 30, 31].map(|l| (rows.gate.slot(l), rows.gate.keeps(l))), [(0, false), (0, false), (0, true)]);
    let few = Row { slots: 3, ..rows.gate };
    let of_few = [0, 1, 2, 30, 31].map(|l| (few.slot(l), few.keeps(l)));
    assert_eq!(of_few, [(0, true), (1, true), (2, false), (2, false), (2, true)]);
}

#[test]
fn frozen_blocks_keep_nothing() {
    let rows = plan("llama", options(Recompute::None, Some(Dtype::F32), 28)).rows;
    assert_eq!([rows.residual.slots, rows.v.slots, rows.gate.slots, rows.normed.slots], [4, 4, 4, 1]);
    assert_eq!([0, 27, 28, 31].map(|l| rows.v.slot(l)), [0, 0, 0, 3], "those before share the first slot");
    assert!((28..32).all(|l| rows.v.keeps(l)));
    let none = plan("llama", options(Recompute::None, Some(Dtype::F32), 32)).rows;
    assert_eq!([none.residual.slots, none.v.slots], [1, 1]);
    let all = |frozen| plan("llama", options(Recompute::None, Some(Dtype::F32), frozen)).memory();
    let sum = |frozen| all(frozen).iter().map(|(_, bytes)| bytes).sum::<usize>();
    assert!(sum(28) < sum(0) / 4, "{} {}", sum(28), sum(0));
}
