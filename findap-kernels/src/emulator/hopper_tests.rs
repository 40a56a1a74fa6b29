//! Tests of the emulated Hopper units: the probes of `cuda::tests::probes` under more settings, and their seeded mistakes.

use super::*;
use crate::cuda::tests::probes::{
    map, pipeline, pipeline_as_it_should_be, run, transposed, transposed_as_it_should_be,
};
use crate::cuda::{Arg, Buffer};

/// The settings under which a mistake must show in at least one.
fn settings(breaks_rules: u32) -> Vec<Options> {
    let mut settings = Vec::from(Options::ALL);
    settings.push(Options { order: Order::Forward, copies: Completion::Late, ..Options::PLAIN });
    settings.push(Options {
        order: Order::Random,
        copies: Completion::Late,
        products: Completion::Late,
        seed: 11,
        ..Options::PLAIN
    });
    settings.iter_mut().for_each(|options| options.breaks_rules = breaks_rules);
    settings
}

#[test]
fn right_kernels_are_exact_under_every_setting() {
    for options in settings(0) {
        assert_eq!(pipeline(&Emulator { options }, 0).unwrap(), pipeline_as_it_should_be(), "{options:?}");
        assert_eq!(transposed(&Emulator { options }, 0).unwrap(), transposed_as_it_should_be(), "{options:?}");
    }
}

#[test]
fn a_map_that_the_hardware_refuses_is_refused_with_the_rule() {
    let emulator = Emulator { options: Options::PLAIN };
    let x = Buffer::new(&emulator, 4096).unwrap();
    let wide = TensorMap { box_dims: [128, 8, 0, 0, 0], ..map(&x, 16, 128, 128, 8) };
    let error = run(&emulator, "seeded_box", 32, 1, 4096, vec![Arg::TensorMap(wide)]).unwrap_err();
    assert!(matches!(error, CudaError::BadTensorMap { index: 0, rule, .. } if rule.contains("wider")), "{error}");
}

/// Number and name of each seeded mistake, whether it is in `seeded_transposed`, and whether it shows even without reports of
/// broken rules, by wrong numbers or a deadlock.
const SEEDED: [(i32, &str, bool, bool); 26] = [
    (1, "DESCRIPTOR_WITHOUT_SWIZZLE", false, true),
    (2, "FULL_PARITY", false, true),
    (3, "EMPTY_PARITY", false, true),
    (4, "NO_PRODUCT_WAIT", false, true),
    (5, "EXPECT_LESS", false, true),
    (6, "EXPECT_MORE", false, true),
    (7, "NO_EMPTY_WAIT", false, true),
    (8, "FIRST_RELEASED_EARLY", false, true),
    (9, "V_NOT_TRANSPOSED", false, true),
    (10, "V_STRIDES_SWAPPED", false, true),
    (11, "NO_PRODUCT_FENCE", false, false),
    (12, "SCALED_IN_FLIGHT", false, true),
    (13, "EMPTY_COUNT", false, true),
    (14, "NOT_ALIGNED", false, false),
    (15, "NO_SYNC_AFTER_INIT", false, true),
    (16, "NO_FULL_WAIT", false, true),
    (17, "NO_ASYNC_FENCE", true, true),
    (18, "NO_BULK_WAIT", true, true),
    (19, "BARRIER_COUNT", true, true),
    (20, "K_STEP", false, true),
    (21, "WAIT_TOO_WEAK", false, true),
    (22, "V_RELEASED_EARLY", false, true),
    (23, "V_PARITY_CONSTANT", false, true),
    (24, "WRONG_EXCHANGE", true, true),
    (25, "ONE_FENCES_FOR_ALL", true, true),
    (26, "NO_INIT_FENCE", false, false),
];

#[test]
fn every_seeded_mistake_is_found() {
    let (pipeline_right, transposed_right) = (pipeline_as_it_should_be(), transposed_as_it_should_be());
    for (bug, name, is_transposed, shows_without_rules) in SEEDED {
        let is_found = |breaks_rules| {
            settings(breaks_rules).into_iter().any(|options| match is_transposed {
                true => transposed(&Emulator { options }, bug).ok().as_ref() != Some(&transposed_right),
                false => pipeline(&Emulator { options }, bug).ok().as_ref() != Some(&pipeline_right),
            })
        };
        assert!(is_found(0), "{name} is not found");
        assert_eq!(is_found(1), shows_without_rules, "{name} without reports of broken rules");
    }
}
