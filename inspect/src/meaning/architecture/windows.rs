//! Which layers have an attention window, by config.json: what transformers' classes do with the same words.

use super::super::config::SlidingLayers;
use super::super::config_json::SLIDING;

/// The words of config.json about windows.
pub(in super::super) struct WindowWords<'w> {
    /// `sliding_window`: `Some(None)` where it is null.
    pub window: Option<Option<usize>>,
    /// `use_sliding_window`.
    pub switch: Option<bool>,
    /// `max_window_layers`.
    pub first: Option<usize>,
    /// `layer_types`.
    pub types: &'w [String],
    /// `sliding_window_pattern`.
    pub period: Option<usize>,
    /// `num_hidden_layers`.
    pub layers: usize,
    /// Whether each layer rotates queries and keys.
    pub rotated: Option<&'w [bool]>,
}

/// The length of the window, and the layers that have it; `None` where no layer has one.
pub(super) type Found = Option<(usize, SlidingLayers)>;

/// Lists of layers are not made longer than this.
const MOST_LAYERS: usize = 1 << 12;

/// Classes without windows, whatever their configuration says.
pub(super) fn none(_: &WindowWords<'_>) -> Found {
    None
}

/// A window in all layers, unless it is null.
pub(super) fn everywhere(words: &WindowWords<'_>) -> Found {
    found(words.window.flatten()?, SlidingLayers::All, words)
}

/// The same of classes in which it is 4096 where nothing is said, or in the layers of `layer_types`: with these, transformers'
/// `AutoConfig` takes Mistral for Ministral, which is the same but for them.
pub(super) fn everywhere_by_default(words: &WindowWords<'_>) -> Found {
    found(words.window.unwrap_or(Some(4096))?, listed(words).unwrap_or(SlidingLayers::All), words)
}

/// A window in all layers, if `use_sliding_window` says so.
pub(super) fn switched_everywhere(words: &WindowWords<'_>) -> Found {
    found(switched(words)?, SlidingLayers::All, words)
}

/// A window in the layers from `max_window_layers` on, or those of `layer_types`, if `use_sliding_window` says so.
pub(super) fn switched_from(words: &WindowWords<'_>) -> Found {
    let from = || SlidingLayers::From(words.first.unwrap_or(28));
    found(switched(words)?, listed(words).unwrap_or_else(from), words)
}

/// A window in the layers of `layer_types`, or else in those that do not rotate, if `use_sliding_window` says so. There is no
/// usual one.
pub(super) fn switched_unrotated(words: &WindowWords<'_>) -> Found {
    let window = words.window.flatten()?;
    let unrotated = || {
        let rotated = words.rotated.unwrap_or_default();
        SlidingLayers::Listed(rotated.iter().map(|rotates| !rotates).collect())
    };
    let switched = || (words.switch == Some(true)).then(unrotated);
    found(window, listed(words).or_else(switched)?, words)
}

/// A window in all layers but each `period`-th, or in those of `layer_types`.
pub(super) fn but_each(words: &WindowWords<'_>, period: usize) -> Found {
    let window = words.window.unwrap_or(Some(4096))?;
    let layers = words.layers.min(MOST_LAYERS);
    found(window, listed(words).unwrap_or_else(|| SlidingLayers::but_each(period, layers)), words)
}

/// The default of `sliding_window` is 4096 in the classes of Qwen.
fn switched(words: &WindowWords<'_>) -> Option<usize> {
    words.window.unwrap_or(Some(4096)).filter(|_| words.switch == Some(true))
}

fn listed(words: &WindowWords<'_>) -> Option<SlidingLayers> {
    let slides = |kind: &String| kind == SLIDING;
    (!words.types.is_empty()).then(|| SlidingLayers::Listed(words.types.iter().map(slides).collect()))
}

fn found(window: usize, layers: SlidingLayers, words: &WindowWords<'_>) -> Found {
    let any = match &layers {
        SlidingLayers::From(first) => words.layers == 0 || *first < words.layers,
        SlidingLayers::Listed(layers) => layers.contains(&true),
        SlidingLayers::All => true,
    };
    any.then(|| (window, layers.settled()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What transformers makes of such files, by its configurations' `__post_init__`.
    #[test]
    fn classes_read_the_same_words_in_their_own_way() {
        let full: Vec<String> = vec!["full_attention".into(); 3];
        let mixed: Vec<String> =
            ["full_attention", "sliding_attention", "full_attention"].map(Into::into).into();
        let words = |window, switch, first, types| WindowWords {
            window,
            switch,
            first,
            types,
            period: None,
            layers: 3,
            rotated: Some(&[true, true, false]),
        };
        let list = |layers: [bool; 3]| SlidingLayers::Listed(layers.to_vec());
        let said = words(Some(Some(9)), Some(true), Some(1), &[]);
        assert_eq!(none(&said), None);
        assert_eq!(everywhere(&said), Some((9, SlidingLayers::All)));
        assert_eq!(switched_everywhere(&said), Some((9, SlidingLayers::All)));
        assert_eq!(switched_from(&said), Some((9, SlidingLayers::From(1))));
        assert_eq!(switched_unrotated(&said), Some((9, list([false, false, true]))));
        let listed = words(Some(Some(9)), None, None, &mixed);
        assert_eq!(
            switched_unrotated(&listed),
            Some((9, list([false, true, false]))),
            "whatever the switch is"
        );
        assert_eq!(switched_unrotated(&words(None, Some(true), None, &[])), None, "there is no usual window");
        assert_eq!(but_each(&said, 2), Some((9, list([true, false, true]))));
        let unsaid = words(None, None, None, &[]);
        assert_eq!(everywhere(&unsaid), None);
        assert_eq!(everywhere_by_default(&unsaid), Some((4096, SlidingLayers::All)));
        assert_eq!(switched_everywhere(&unsaid), None);
        assert_eq!(switched_from(&words(None, Some(true), None, &[])), None, "from the 29th of 3 layers on");
        assert_eq!(switched_from(&words(Some(Some(9)), None, Some(0), &[])), None);
        assert_eq!(everywhere_by_default(&words(Some(None), None, None, &[])), None);
        assert_eq!(everywhere_by_default(&listed), Some((9, list([false, true, false]))));
        assert_eq!(switched_from(&words(Some(Some(9)), Some(true), Some(0), &full)), None);
        assert_eq!(but_each(&words(None, None, None, &mixed), 2), Some((4096, list([false, true, false]))));
        assert_eq!(but_each(&words(Some(Some(9)), None, None, &[]), 6), Some((9, SlidingLayers::All)));
    }
}
