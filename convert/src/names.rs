//! Tensor names, mapped between the student model's, Hugging Face's Llama and Qwen3 modules, and GGUF
//! (llama.cpp's `gguf-py/gguf/tensor_mapping.py`). The student's names are Hugging Face's without `model.`.

use std::borrow::Cow;

use ckpt_inspect::without_state_dict;

/// Who calls a tensor what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `layers.0.self_attn.q_proj.weight`, `lm_head.weight`.
    Student,
    /// `model.layers.0.self_attn.q_proj.weight`, `lm_head.weight`.
    Hf,
    /// `blk.0.attn_q.weight`, `output.weight`.
    Gguf,
}

/// Modules outside the layers: student, GGUF.
const OUTER: [(&str, &str); 3] =
    [("embed_tokens", "token_embd"), ("norm", "output_norm"), ("lm_head", "output")];

/// Modules of a layer: student, GGUF.
const INNER: [(&str, &str); 13] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("self_attn.attn_sub_norm", "attn_sub_norm"),
    ("mlp.ffn_sub_norm", "ffn_sub_norm"),
];

/// `name` as the student calls it: without the key of a state dict, whichever style it has. A name that no style
/// knows stays as it is.
pub fn canonical(name: &str) -> Cow<'_, str> {
    let name = without_state_dict(name);
    if let Some(rest) = name.strip_prefix("model.") {
        let first = rest.split('.').next().unwrap_or("");
        if first == "layers" || OUTER.iter().any(|(student, _)| *student == first) {
            return Cow::Borrowed(rest);
        }
    }
    from_gguf(name).map_or(Cow::Borrowed(name), Cow::Owned)
}

/// `name`, of any style, in `style`; `None` where that style has no word for it.
pub fn translate(name: &str, style: Style) -> Option<String> {
    let name = canonical(name);
    match style {
        Style::Student => Some(name.into_owned()),
        Style::Hf => {
            let first = name.split('.').next().unwrap_or("");
            let in_model = matches!(first, "layers" | "embed_tokens" | "norm");
            Some(if in_model { format!("model.{name}") } else { name.into_owned() })
        }
        Style::Gguf => to_gguf(&name),
    }
}

/// Which style `names` have, by the first one that only one style would use.
pub fn style_of<'n>(names: impl IntoIterator<Item = &'n str>) -> Option<Style> {
    names.into_iter().map(without_state_dict).find_map(|name| {
        if name.starts_with("blk.") || name.starts_with("token_embd.") {
            Some(Style::Gguf)
        } else if name.starts_with("model.layers.") || name.starts_with("model.embed_tokens.") {
            Some(Style::Hf)
        } else if name.starts_with("layers.") || name.starts_with("embed_tokens.") {
            Some(Style::Student)
        } else {
            None
        }
    })
}

fn from_gguf(name: &str) -> Option<String> {
    let (module, leaf) = name.rsplit_once('.')?;
    if let Some(rest) = module.strip_prefix("blk.") {
        let (layer, module) = rest.split_once('.')?;
        let (student, _) = INNER.iter().find(|(_, gguf)| *gguf == module)?;
        return Some(format!("layers.{layer}.{student}.{leaf}"));
    }
    let (student, _) = OUTER.iter().find(|(_, gguf)| *gguf == module)?;
    Some(format!("{student}.{leaf}"))
}

fn to_gguf(name: &str) -> Option<String> {
    let (module, leaf) = name.rsplit_once('.')?;
    if let Some(rest) = module.strip_prefix("layers.") {
        let (layer, module) = rest.split_once('.')?;
        let (_, gguf) = INNER.iter().find(|(student, _)| *student == module)?;
        return Some(format!("blk.{layer}.{gguf}.{leaf}"));
    }
    let (_, gguf) = OUTER.iter().find(|(student, _)| *student == module)?;
    Some(format!("{gguf}.{leaf}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_goes_there_and_back() {
        let mut names: Vec<String> = OUTER.iter().map(|(s, _)| format!("{s}.weight")).collect();
        names.extend(INNER.iter().map(|(s, _)| format!("layers.11.{s}.weight")));
        names.push("layers.3.self_attn.q_proj.bias".into());
        for name in &names {
            for style in [Style::Student, Style::Hf, Style::Gguf] {
                let theirs = translate(name, style).unwrap();
                assert_eq!(canonical(&theirs), name.as_str(), "{theirs}");
                assert_eq!(canonical(&format!("model_state_dict.{theirs}")), name.as_str(), "{theirs}");
            }
        }
        assert_eq!(
            translate("layers.0.self_attn.q_proj.weight", Style::Gguf).unwrap(),
            "blk.0.attn_q.weight"
        );
        assert_eq!(
            translate("blk.0.attn_q.weight", Style::Hf).unwrap(),
            "model.layers.0.self_attn.q_proj.weight"
        );
        assert_eq!(translate("output.weight", Style::Hf).unwrap(), "lm_head.weight");
    }

    #[test]
    fn unknown_names_stay() {
        assert_eq!(canonical("model.encoder.w"), "model.encoder.w");
        assert_eq!(canonical("w"), "w");
        assert_eq!(translate("encoder.w", Style::Gguf), None);
        assert_eq!(style_of(["w", "model_state_dict.layers.0.w"]), Some(Style::Student));
        assert_eq!(style_of(["output.weight"]), None);
    }
}
