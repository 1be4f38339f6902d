//! GGUF files: against what gguf-py reads and dequantizes (data/gguf_truth.py), against gguf-rs, and hand-made files
//! that are wrong in one way each.

use std::collections::BTreeMap;
use std::io::Cursor;

use ckpt_inspect::ggml::{GgmlType, I2_S_TAIL};
use ckpt_inspect::gguf::{Header, Keys, LONGEST_PLAIN, Layout, OutputEntry, Value, ValueType};
use ckpt_inspect::{
    Checkpoint, DType, DamageKind, ErrorKind, I2sLayout, OpenOptions, Options, describe, metadata, open,
    open_bytes, open_bytes_with,
};
use ckpt_kit::fixtures::data;
use ckpt_kit::gguf::Gguf;

fn truth(file: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(data("inspect", "gguf_truth.json")).unwrap();
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    all[file].clone()
}

/// The values gguf-py gives to the tensors `v.*` of every_type.gguf, by name.
fn expected() -> BTreeMap<String, Vec<f32>> {
    let all: Vec<f32> = std::fs::read(data("inspect", "every_type.f32"))
        .unwrap()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let truth = truth("every_type.gguf");
    let names = truth["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap());
    names
        .filter(|n| n.starts_with("v."))
        .map(str::to_string)
        .zip(all.chunks(512).map(<[f32]>::to_vec))
        .collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Opens a hand-made file.
trait Open {
    fn open(&self) -> Checkpoint;
}

impl Open for Gguf {
    fn open(&self) -> Checkpoint {
        open_bytes("model.gguf", self.bytes()).unwrap()
    }
}

fn damage<'c>(checkpoint: &'c Checkpoint, name: &str) -> Option<&'c str> {
    checkpoint.tensor(name).unwrap().damage.as_ref().map(|damage| damage.what.as_str())
}

#[test]
fn header_and_places_agree_with_gguf_py() {
    for file in ["every_type.gguf", "big_endian.gguf"] {
        let bytes = std::fs::read(data("inspect", file)).unwrap();
        let (header, truth) = (Header::parse(&bytes).unwrap(), truth(file));
        assert_eq!(header.big_endian, file == "big_endian.gguf");
        assert_eq!(header.alignment, truth["alignment"].as_u64().unwrap());
        assert_eq!(header.data_offset, truth["data_offset"].as_u64().unwrap());
        assert_eq!((header.damage, header.warnings), (None, vec![]));
        let tensors = truth["tensors"].as_array().unwrap();
        assert_eq!(header.tensors.len(), tensors.len());
        for (tensor, wanted) in header.tensors.iter().zip(tensors) {
            assert_eq!(tensor.name, wanted["name"].as_str().unwrap());
            assert_eq!(tensor.ggml.name(), wanted["type"].as_str().unwrap());
            assert_eq!(u64::from(tensor.ggml.0), wanted["number"].as_u64().unwrap());
            assert_eq!(serde_json::to_value(&tensor.shape).unwrap(), wanted["shape"]);
            assert_eq!(tensor.offset, wanted["offset"].as_u64().unwrap());
            assert_eq!(tensor.bytes, wanted["bytes"].as_u64().unwrap());
            assert_eq!(tensor.damage, None);
        }
        let keys: serde_json::Map<String, serde_json::Value> = header
            .keys
            .iter()
            .map(|(k, v)| (k.to_string(), metadata::to_json(&v.to_plain(LONGEST_PLAIN))))
            .collect();
        assert_eq!(serde_json::Value::Object(keys), truth["keys"]);
    }
}

/// All arithmetic of gguf.quants is in f32, one rounding per operation, so every bit is the same.
#[test]
fn values_are_those_of_gguf_py_to_the_bit() {
    let checkpoint = open(data("inspect", "every_type.gguf")).unwrap();
    let expected = expected();
    assert_eq!(expected.len(), 31);
    for (name, wanted) in &expected {
        let tensor = checkpoint.tensor(name).unwrap();
        assert_eq!(bits(&checkpoint.values(tensor).unwrap()), bits(wanted), "{name}");
        if tensor.dtype.element_size().is_some() {
            continue;
        }
        let (stats, _) = checkpoint.measure(tensor, false).unwrap();
        let mean = wanted.iter().map(|&v| f64::from(v)).sum::<f64>() / 512.0;
        let off = (stats.mean.unwrap() - mean).abs();
        assert!(off <= 1e-9 * stats.abs_mean.unwrap(), "{name}: mean {:?} for {mean}", stats.mean);
    }
    assert!(!checkpoint.is_damaged());
}

#[test]
fn a_decoder_starts_and_stops_anywhere() {
    let checkpoint = open(data("inspect", "every_type.gguf")).unwrap();
    for (name, wanted) in expected() {
        let tensor = checkpoint.tensor(&name).unwrap();
        let DType::Ggml(ggml) = tensor.dtype else { continue };
        let bytes = checkpoint.tensor_bytes(tensor).unwrap();
        let decoder = ggml.decoder(&bytes, 512).unwrap();
        for (start, len) in [(0, 1), (7, 300), (31, 2), (255, 257), (256, 256), (511, 1), (512, 0)] {
            let mut out = vec![f32::NAN; len];
            decoder.read(start, &mut out);
            assert_eq!(bits(&out), bits(&wanted[start..start + len]), "{name} {start} {len}");
        }
        assert!(ggml.decoder(&bytes[1..], 512).is_err(), "{name}");
        assert!(ggml.decoder(&bytes, 511).is_err(), "{name}");
    }
}

#[test]
fn ternary_blocks_give_their_codes() {
    let checkpoint = open(data("inspect", "every_type.gguf")).unwrap();
    for name in ["v.tq1_0", "v.tq2_0"] {
        let tensor = checkpoint.tensor(name).unwrap();
        let codes = checkpoint.ternary_codes(tensor).unwrap().unwrap();
        let signs: Vec<i8> = checkpoint
            .values(tensor)
            .unwrap()
            .iter()
            .map(|&v| if v == 0.0 { 0 } else { v.signum() as i8 })
            .collect();
        assert_eq!(codes, signs, "{name}");
        assert!(codes.contains(&-1) && codes.contains(&0) && codes.contains(&1), "{name}");
        let (_, ternary) = checkpoint.measure(tensor, false).unwrap();
        let zeros = codes.iter().filter(|&&c| c == 0).count() as f64 / 512.0;
        assert_eq!(ternary.unwrap().zero, zeros, "{name}");
    }
    let mut codes = [0; 256];
    let error = GgmlType::TQ2_0.ternary_codes(&[0xff; 66], &mut codes).unwrap_err();
    assert!(error.what.contains("code 3"), "{error}");
    assert!(GgmlType::TQ2_0.ternary_codes(&[0; 65], &mut codes).is_err());
}

#[test]
fn big_endian_blocks_have_the_same_values_and_bytes() {
    let (little, big) = (
        open(data("inspect", "every_type.gguf")).unwrap(),
        open(data("inspect", "big_endian.gguf")).unwrap(),
    );
    assert_eq!(big.format.name(), "gguf-v3-big-endian");
    assert_eq!(big.tensors.len(), 8);
    for tensor in &big.tensors {
        let same = little.tensor(&tensor.name).unwrap();
        assert_eq!(
            big.tensor_bytes(tensor).unwrap(),
            little.tensor_bytes(same).unwrap(),
            "{}: bytes are little-endian whatever the file is",
            tensor.name
        );
        assert_eq!(
            bits(&big.values(tensor).unwrap()),
            bits(&little.values(same).unwrap()),
            "{}",
            tensor.name
        );
    }
}

/// Equal, except for the digits of a float32: gguf-rs keeps the shortest that identify it, and we keep its value.
fn is_same(theirs: &serde_json::Value, ours: &serde_json::Value) -> bool {
    match (theirs, ours) {
        (serde_json::Value::Array(a), serde_json::Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (serde_json::Value::Number(a), serde_json::Value::Number(b)) if a.is_f64() && b.is_f64() => {
            a.as_f64().map(|x| x as f32) == b.as_f64().map(|x| x as f32)
        }
        _ => theirs == ours,
    }
}

fn compare_with_gguf_rs(bytes: &[u8]) {
    let header = Header::parse(bytes).unwrap();
    let order = if header.big_endian { gguf_rs::ByteOrder::BE } else { gguf_rs::ByteOrder::LE };
    let after_magic = Box::new(Cursor::new(bytes[4..].to_vec()));
    let model = gguf_rs::GGUFContainer::new(order, after_magic, u64::MAX).decode().unwrap();
    assert_eq!(model.get_version(), format!("v{}", header.version));
    assert_eq!(model.data_offset(), header.data_offset);
    assert_eq!(model.metadata().len(), header.keys.len());
    for (key, value) in &header.keys {
        let (theirs, ours) = (&model.metadata()[&**key], metadata::to_json(&value.to_plain(usize::MAX)));
        assert!(is_same(theirs, &ours), "{key}: {ours}, gguf-rs has {theirs}");
    }
    assert_eq!(model.tensors().len(), header.tensors.len());
    for (theirs, ours) in model.tensors().iter().zip(&header.tensors) {
        assert_eq!(theirs.name, ours.name);
        assert_eq!(theirs.kind, ours.ggml.0, "{}", ours.name);
        assert_eq!(theirs.offset + header.data_offset, ours.offset, "{}", ours.name);
        let shape: Vec<u64> = ours.shape.iter().rev().map(|&n| n as u64).collect();
        assert_eq!(theirs.shape, shape, "{}", ours.name);
    }
}

#[test]
fn headers_agree_with_gguf_rs() {
    let mut little = std::fs::read(data("inspect", "every_type.gguf")).unwrap();
    let mut big = std::fs::read(data("inspect", "big_endian.gguf")).unwrap();
    for bytes in [&little, &big] {
        compare_with_gguf_rs(bytes);
    }
    little[4] = 2;
    big[7] = 2;
    for bytes in [&little, &big] {
        compare_with_gguf_rs(bytes);
        assert_eq!(Header::parse(bytes).unwrap().version, 2);
    }
}

#[test]
fn values_are_views_with_typed_getters() {
    let file = Gguf::new().key_text("general.architecture", "qwen3").key_u32("qwen3.block_count", 7);
    let strings: Vec<u8> = (0..5000).flat_map(|i| file.string(format!("t{i}"))).collect();
    let tokens = file.array(ValueType::String as u32, 5000, &strings);
    let inner = |n: u8| file.array(ValueType::Uint8 as u32, 2, &[n, n + 1]);
    let nested = file.array(ValueType::Array as u32, 2, &[inner(1), inner(3)].concat());
    let file = file
        .key("tokens", ValueType::Array as u32, tokens)
        .key("nested", ValueType::Array as u32, nested)
        .key("not utf-8", ValueType::String as u32, vec![2, 0, 0, 0, 0, 0, 0, 0, 0xff, b'a'])
        .key("large", ValueType::Uint64 as u32, u64::MAX.to_le_bytes().to_vec());
    let bytes = file.bytes();
    let header = Header::parse(&bytes).unwrap();
    assert_eq!(header.of_architecture("block_count"), Some(Value::Uint32(7)));
    assert_eq!(header.strings("tokens").unwrap().nth(4321), Some(b"t4321".as_slice()));
    assert_eq!(header.strings("tokens").unwrap().count(), 5000);
    assert_eq!(header.floats("tokens"), None);
    assert!(header.strings("nested").is_none());
    let checkpoint = file.open();
    let json = metadata::to_json(&checkpoint.metadata);
    assert_eq!(json["tokens"], "5000 string values");
    assert_eq!(json["nested"], serde_json::json!([[1, 2], [3, 4]]));
    assert_eq!(json["not utf-8"], "\u{fffd}a");
    assert_eq!(json["large"], "18446744073709551615");
    assert_eq!(checkpoint.model.architecture, "qwen3");
    let again = checkpoint.gguf_header().unwrap().unwrap();
    assert_eq!(again.strings("tokens").unwrap().last(), Some(b"t4999".as_slice()));
}

#[test]
fn versions_other_than_two_and_three_are_named() {
    for (version, hint) in [(1, "2023"), (4, "newer"), (0x0001_0000, "newer")] {
        let file = Gguf { version: Some(version), ..Gguf::new() };
        let error = open_bytes("model.gguf", file.bytes()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[test]
fn a_wrong_alignment_loses_the_data_and_not_the_list() {
    for value in [0, 48] {
        let checkpoint = Gguf::new().key_u32("general.alignment", value).f32s("a", &[4]).open();
        assert!(damage(&checkpoint, "a").unwrap().contains("power of two"), "{value}");
        assert!(checkpoint.is_damaged());
    }
    let text = Gguf::new().key_text("general.alignment", &"x".repeat(10_000)).f32s("a", &[4]).open();
    assert!(damage(&text, "a").unwrap().contains("of type string"));
    assert!(damage(&text, "a").unwrap().len() < 200);
}

#[test]
fn tensors_out_of_place_are_damaged_alone() {
    let checkpoint = Gguf::new()
        .f32s("whole", &[8, 2])
        .f32s("under", &[8])
        .f32s("over", &[8])
        .moved(80)
        .f32s("far", &[8])
        .moved(1 << 40)
        .f32s("beyond", &[8])
        .moved(u64::MAX - 4)
        .tensor("unknown", &[8], 77, vec![])
        .tensor("ragged", &[33], GgmlType::Q8_0.0, vec![0; 34])
        .tensor("huge", &[1 << 40, 1 << 40], GgmlType::F32.0, vec![])
        .f32s("whole", &[1])
        .open();
    assert_eq!(damage(&checkpoint, "whole"), None);
    assert_eq!(checkpoint.tensor("whole").unwrap().shape, [2, 8]);
    for (name, what) in [
        ("under", "overlap those of `over`"),
        ("over", "overlap those of `under`"),
        ("far", "cut short"),
        ("beyond", "beyond any file"),
        ("unknown", "type 77"),
        ("ragged", "blocks of 32"),
        ("huge", "overflows"),
    ] {
        let damage = damage(&checkpoint, name).unwrap();
        assert!(damage.contains(what), "{name}: {damage}");
    }
    assert_eq!(checkpoint.damage.as_ref().unwrap().what, "7 of 8 tensors cannot be read");
    assert!(
        checkpoint.warnings.iter().any(|w| w.text.contains("1 tensor name occurs more than once: `whole`"))
    );
    assert!(checkpoint.warnings.iter().any(|w| w.text.contains("not aligned to multiples of 32")));
}

#[test]
fn two_names_for_the_same_bytes_share_them() {
    let checkpoint = Gguf::new().f32s("a", &[8]).f32s("b", &[4, 2]).moved(0).open();
    assert!(!checkpoint.is_damaged());
    assert_eq!(checkpoint.sharing(4), [["b"], ["a"]]);
}

#[test]
fn a_cut_file_opens_with_what_is_whole() {
    let bytes =
        Gguf::new().key_u32("one", 1).key_u32("two", 2).f32s("first", &[16]).f32s("second", &[16]).bytes();
    let open_cut = |at: usize| open_bytes("model.gguf", bytes[..at].to_vec());
    let in_data = open_cut(bytes.len() - 1).unwrap();
    assert_eq!(damage(&in_data, "first"), None);
    assert!(damage(&in_data, "second").unwrap().contains("cut short"));
    let in_tensors = open_cut(130).unwrap();
    assert_eq!(in_tensors.tensors.len(), 1);
    assert!(in_tensors.damage.as_ref().unwrap().what.contains("tensor 2 of 2"), "{:?}", in_tensors.damage);
    assert!(damage(&in_tensors, "first").unwrap().contains("position of the data is unknown"));
    let in_keys = open_cut(50).unwrap();
    assert!(in_keys.damage.as_ref().unwrap().what.contains("key 2 of 2"), "{:?}", in_keys.damage);
    assert_eq!(metadata::to_json(&in_keys.metadata), serde_json::json!({"one": 1}));
    assert_eq!(open_cut(30).unwrap_err().kind, ErrorKind::Damaged);
}

#[test]
fn too_many_dimensions_and_too_deep_arrays_end_the_list() {
    let many = Gguf::new().f32s("a", &[1]).tensor("b", &[1; 5], GgmlType::F32.0, vec![0; 4]).open();
    let damage = many.damage.unwrap();
    assert!(damage.what.contains("`b` has 5 dimensions"));
    assert_eq!((damage.kind, damage.is_truncation()), (DamageKind::Inconsistent, false));
    let file = Gguf::new().key_u32("one", 1);
    let deep = (0..20).fold(file.array(ValueType::Uint8 as u32, 0, &[]), |inner, _| {
        file.array(ValueType::Array as u32, 1, &inner)
    });
    let deep = file.key("deep", ValueType::Array as u32, deep).open();
    let damage = deep.damage.unwrap();
    assert!(damage.what.contains("nested more than"));
    assert_eq!(damage.kind, DamageKind::Inconsistent);
    let mut odd = Gguf::new().key_u32("one", 1).key_u32("two", 2);
    odd.keys[1].1 = 77;
    let damage = odd.open().damage.unwrap();
    assert!(damage.what.contains("77 is not a known value type"));
    assert_eq!((damage.kind, damage.is_truncation()), (DamageKind::UnknownType, false));
    let long = Gguf::new().key_u32("one", 1).key("two", ValueType::String as u32, vec![0xff; 8]);
    assert!(long.open().damage.unwrap().is_truncation(), "the file ends before the string does");
}

#[test]
fn sizes_in_pytorch_order_are_turned_round() {
    let model = |embedding: [u64; 2], up: [u64; 2], down: [u64; 2]| {
        Gguf::new()
            .f32s("token_embd.weight", &embedding)
            .f32s("blk.0.ffn_up.weight", &up)
            .f32s("blk.0.ffn_down.weight", &down)
            .f32s("blk.0.attn_q.weight", &[8, 8])
            .tensor("output_norm.weight", &[8], GgmlType::F16.0, vec![0; 16])
    };
    let keyed =
        |file: Gguf| file.key_text("general.architecture", "llama").key_u32("llama.embedding_length", 8);
    let turned = model([20, 8], [24, 8], [8, 24]);
    for file in [keyed(turned.clone()), turned.clone()] {
        let checkpoint = file.open();
        assert_eq!(checkpoint.tensor("token_embd.weight").unwrap().shape, [20, 8]);
        assert_eq!(checkpoint.tensor("blk.0.ffn_up.weight").unwrap().shape, [24, 8]);
        assert_eq!(checkpoint.tensor("blk.0.ffn_down.weight").unwrap().shape, [8, 24]);
        assert!(
            checkpoint.warnings.iter().any(|w| w.text.contains("PyTorch's order")),
            "{:?}",
            checkpoint.warnings
        );
    }
    let right = keyed(model([8, 20], [8, 24], [24, 8])).open();
    assert_eq!(right.tensor("token_embd.weight").unwrap().shape, [20, 8]);
    assert_eq!(right.warnings, [""; 0]);
    let mixed = keyed(model([20, 8], [8, 24], [24, 8])).open();
    assert_eq!(mixed.tensor("token_embd.weight").unwrap().shape, [8, 20], "one of many proves nothing");
}

/// Packs codes as bitnet.cpp's `quantize_i2_s` does in the builds of each kind.
fn pack_i2s(codes: &[i8], cols: usize, layout: I2sLayout) -> Vec<u8> {
    let mut packed = vec![0u8; codes.len() / 4];
    for (i, &code) in codes.iter().enumerate() {
        let (byte, place) = match layout {
            I2sLayout::X86 => (i / 128 * 32 + i % 128 % 32, i % 128 / 32),
            I2sLayout::Arm => (i / 64 * 16 + i % 64 % 16, i % 64 / 16),
            I2sLayout::Rows => (i / cols / 4 * cols + i % cols, i / cols % 4),
            other => panic!("{other:?} has no packer here"),
        };
        packed[byte] |= ((code + 1) as u8) << (6 - 2 * place);
    }
    packed
}

fn i2s_file(rows: usize, cols: usize, layout: I2sLayout, big_endian: bool) -> (Gguf, Vec<i8>) {
    let codes: Vec<i8> = (0..rows * cols).map(|i| ((i * i + i / 7) % 3) as i8 - 1).collect();
    let file = Gguf { big_endian, ..Gguf::new() };
    let mut data = pack_i2s(&codes, cols, layout);
    data.extend(file.number(0.625f32));
    data.resize(codes.len() / 4 + I2_S_TAIL as usize, 0);
    (file.tensor("w", &[cols as u64, rows as u64], GgmlType::I2_S.0, data), codes)
}

#[test]
fn i2_s_decodes_to_its_matrix_in_every_layout() {
    for (layout, name) in
        [(I2sLayout::X86, "i2_s"), (I2sLayout::Arm, "i2_s_arm"), (I2sLayout::Rows, "i2_s_rows")]
    {
        for big_endian in [false, true] {
            let (file, codes) = i2s_file(8, 256, layout, big_endian);
            let options = OpenOptions::i2s(Some(layout));
            let checkpoint = open_bytes_with("model.gguf", file.bytes(), &options).unwrap();
            let tensor = checkpoint.tensor("w").unwrap();
            assert_eq!(tensor.dtype.name(), name);
            assert_eq!((tensor.shape.as_slice(), tensor.scale), ([8, 256].as_slice(), Some(0.625)));
            assert_eq!(checkpoint.ternary_codes(tensor).unwrap().unwrap(), codes, "{name}");
            assert_eq!(checkpoint.values(tensor).unwrap()[0], f32::from(codes[0]) * 0.625);
            let (stats, ternary) = checkpoint.measure(tensor, false).unwrap();
            let ternary = ternary.unwrap();
            let share = |code: i8| codes.iter().filter(|&&c| c == code).count() as f64 / codes.len() as f64;
            assert_eq!((ternary.neg, ternary.zero, ternary.pos), (share(-1), share(0), share(1)));
            assert_eq!((ternary.scale, stats.abs_max), (Some(0.625), Some(0.625)));
            assert_eq!(checkpoint.warnings, [""; 0]);
        }
    }
}

#[test]
fn the_i2_s_layout_follows_from_rows_or_is_assumed_with_a_warning() {
    let (narrow, codes) = i2s_file(4, 192, I2sLayout::Arm, false);
    let checkpoint = narrow.open();
    let tensor = checkpoint.tensor("w").unwrap();
    assert_eq!(tensor.dtype.name(), "i2_s_arm", "x86 blocks do not fill rows of 192");
    assert_eq!(checkpoint.ternary_codes(tensor).unwrap().unwrap(), codes);
    assert!(
        checkpoint.warnings[0].text.contains("the layout `arm` was assumed"),
        "{:?}",
        checkpoint.warnings
    );

    let checkpoint = i2s_file(4, 256, I2sLayout::X86, false).0.open();
    assert_eq!(checkpoint.tensor("w").unwrap().dtype.name(), "i2_s");
    assert!(
        checkpoint.warnings.iter().any(|w| w.text.contains("the layout `x86` was assumed")),
        "{:?}",
        checkpoint.warnings
    );

    let ragged = Gguf::new().tensor("w", &[96], GgmlType::I2_S.0, vec![0x55; 24 + 32]).open();
    assert!(damage(&ragged, "w").is_some(), "96 values fill neither 64 nor 128");
    assert_eq!("arm".parse::<I2sLayout>().unwrap(), I2sLayout::Arm);
    assert!("avx".parse::<I2sLayout>().is_err());
}

#[test]
fn a_code_that_is_not_ternary_is_damage() {
    let (mut file, _) = i2s_file(4, 256, I2sLayout::X86, false);
    file.tensors[0].data[17] |= 0b0000_1100;
    let checkpoint = file.open();
    let record = describe(&checkpoint, Options::default(), &|_| ());
    assert!(record.tensors[0].damage.as_ref().unwrap().contains("code 3"), "{:?}", record.tensors[0].damage);
    assert!(checkpoint.ternary_codes(&checkpoint.tensors[0]).is_err());
}

/// bitnet.cpp's TL2 has the number of MXFP4: the architecture and the room that a tensor has decide.
#[test]
fn the_number_39_is_tl2_in_files_of_bitnet_cpp() {
    // As `ggml_nbytes` of bitnet.cpp: (cols - 256) * rows / 3 * 5 / 8 + 64 * rows, padded to 32, and a tail.
    let (rows, cols) = (64, 512);
    let tl2: usize = (256 * 64 / 3 * 5 / 8 + 64 * 64usize).next_multiple_of(32) + 32;
    let mxfp4 = rows * cols / 32 * 17;
    let opened = |architecture: &str, size: usize, more: bool| {
        let file = Gguf::new()
            .key_text("general.architecture", architecture)
            .f32s("output_norm.weight", &[8])
            .tensor("blk.0.attn_q.weight", &[cols as u64, rows as u64], 39, vec![0x22; size]);
        if more { file.f32s("blk.0.attn_norm.weight", &[8]) } else { file }.open()
    };
    for more in [true, false] {
        for architecture in ["bitnet-b1.58", "bitnet", "bitnet-25"] {
            let checkpoint = opened(architecture, tl2, more);
            assert!(!checkpoint.is_damaged(), "{:?}", checkpoint.damage);
            let tensor = checkpoint.tensor("blk.0.attn_q.weight").unwrap();
            assert_eq!((tensor.dtype.name(), tensor.byte_len()), ("TL2", Some(tl2 as u64)));
            let error = checkpoint.values(tensor).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unsupported);
            assert!(error.what.contains("kernels that bitnet.cpp was built with"), "{error}");
            let real = opened(architecture, mxfp4, more);
            assert_eq!(real.tensor("blk.0.attn_q.weight").unwrap().dtype.name(), "MXFP4", "it has room");
        }
        let other = opened("llama", tl2, more);
        assert_eq!(other.tensor("blk.0.attn_q.weight").unwrap().dtype.name(), "MXFP4");
        assert!(other.is_damaged(), "its bytes are cut short, or those of the next tensor");
    }
    // The number that it has here is not one of files.
    let number = GgmlType::TL2.0;
    let unknown = Gguf::new().tensor("w", &[512, 64], number, vec![0; tl2]).open();
    assert!(damage(&unknown, "w").unwrap().contains("unknown type"));
}

#[test]
fn splits_open_as_one_and_missing_ones_are_reported() {
    let u16 = |n: u16| n.to_le_bytes().to_vec();
    let split = |no: u16| {
        let file = if no == 0 { Gguf::new().key_text("general.architecture", "llama") } else { Gguf::new() };
        let (counts, names) = (file.key("split.no", ValueType::Uint16 as u32, u16(no)), ["a", "b", "c"]);
        counts
            .key("split.count", ValueType::Uint16 as u32, u16(3))
            .key("split.tensors.count", ValueType::Int32 as u32, 3i32.to_le_bytes().to_vec())
            .f32s(names[no as usize], &[8])
            .bytes()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |no: u16| folder.path().join(format!("m-{:05}-of-00003.gguf", no + 1));
    for no in 0..3 {
        std::fs::write(path(no), split(no)).unwrap();
    }
    for from in [folder.path().to_path_buf(), path(0), path(2)] {
        let whole = open(&from).unwrap();
        assert!(!whole.is_damaged(), "{:?}", whole.damage);
        let names: Vec<&str> = whole.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(whole.model.architecture, "llama");
        for tensor in &whole.tensors {
            assert_eq!(whole.values(tensor).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        }
    }
    std::fs::rename(path(1), folder.path().join("lone.gguf")).unwrap();
    let gap = open(path(0)).unwrap();
    assert!(gap.damage.as_ref().unwrap().what.contains("m-00002-of-00003.gguf"), "{:?}", gap.damage);
    let lone = open(folder.path().join("lone.gguf")).unwrap();
    assert!(lone.damage.as_ref().unwrap().what.contains("split 2 of 3"), "{:?}", lone.damage);
}

/// What every_type.gguf holds, written anew, has the same keys, tensors and values; a big-endian file becomes a
/// little-endian one with the same keys.
#[test]
fn a_header_written_anew_says_the_same() {
    for file in ["every_type.gguf", "big_endian.gguf"] {
        let bytes = std::fs::read(data("inspect", file)).unwrap();
        let header = Header::parse(&bytes).unwrap();
        let mut keys = Keys::default();
        header.keys.iter().for_each(|(key, value)| keys.copy(key, value));
        keys.set("general.alignment", &4096u32);
        let tensors: Vec<OutputEntry> =
            header.tensors.iter().map(|t| OutputEntry::new(&*t.name, t.ggml, t.shape.clone())).collect();
        let layout = Layout::new(&keys, &tensors).unwrap();
        let mut again = layout.header.clone();
        again.resize(layout.len as usize, 0);
        compare_with_gguf_rs(&again);
        let written = Header::parse(&again).unwrap();
        assert_eq!((written.version, written.big_endian, written.alignment), (3, false, 32));
        assert_eq!((&written.warnings, &written.damage), (&vec![], &None));
        let plain = |header: &Header<'_>| {
            let keys = header.keys.iter().filter(|(key, _)| key != "general.alignment");
            keys.map(|(k, v)| (k.to_string(), metadata::to_json(&v.to_plain(usize::MAX)))).collect::<Vec<_>>()
        };
        assert_eq!(plain(&written), plain(&header));
        for ((ours, theirs), offset) in written.tensors.iter().zip(&header.tensors).zip(layout.offsets) {
            assert_eq!((&ours.name, ours.ggml, &ours.shape), (&theirs.name, theirs.ggml, &theirs.shape));
            assert_eq!((ours.offset, ours.bytes), (offset, theirs.bytes));
        }
    }
}

#[test]
fn what_cannot_be_laid_out_is_refused() {
    let entry = |ggml, shape: &[usize]| OutputEntry::new("w", ggml, shape);
    let fits = |entry| Layout::new(&Keys::default(), &[entry]).is_some();
    assert!(fits(entry(GgmlType::TQ2_0, &[3, 256])) && fits(entry(GgmlType::F32, &[])));
    assert!(!fits(entry(GgmlType::TQ2_0, &[256, 3])), "rows that blocks do not fill");
    assert!(!fits(entry(GgmlType::F32, &[1, 1, 1, 1, 1])), "five dimensions");
    assert!(!fits(entry(GgmlType(63), &[1])), "an unknown type");
    assert!(!fits(entry(GgmlType::F32, &[usize::MAX, 2])), "more bytes than can be counted");
}
