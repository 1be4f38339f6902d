//! NumPy's arrays, alone and in archives: written by hand here, and by NumPy if it is installed.

use ckpt_inspect::npy::{self, ElementKind, Header};
use ckpt_inspect::scan::scan;
use ckpt_inspect::{DType, DamageKind, ErrorKind, NoticeKind, TernaryPacking, open, open_bytes};
use ckpt_kit::npy::npy;
use ckpt_kit::numbers::le;
use ckpt_kit::peers;
use ckpt_kit::zip::{deflated, entry, zip};

const SIX: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];

#[test]
fn an_array_opens_in_either_order_of_rows_and_bytes() {
    let plain = open_bytes("w.npy", npy("'<f4'", false, "(2, 3)", &le(&SIX))).unwrap();
    assert_eq!((plain.format.name().as_str(), plain.is_damaged()), ("npy", false));
    let tensor = plain.tensor("w").unwrap();
    assert_eq!((&tensor.shape, &tensor.strides), (&vec![2, 3], &vec![3, 1]));
    assert_eq!(plain.values(tensor).unwrap(), SIX);

    let columns = open_bytes("w.npy", npy("'<f4'", true, "(2, 3)", &le(&SIX))).unwrap();
    let tensor = columns.tensor("w").unwrap();
    assert_eq!(tensor.strides, [1, 2]);
    assert_eq!(columns.values(tensor).unwrap(), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);

    let swapped: Vec<u8> = [258i16, -2].iter().flat_map(|n| n.to_be_bytes()).collect();
    let swapped = open_bytes("w.npy", npy("'>i2'", false, "(2,)", &swapped)).unwrap();
    assert_eq!(swapped.values(swapped.tensor("w").unwrap()).unwrap(), [258.0, -2.0]);

    let scalar = open_bytes("w.npy", npy("'<f8'", false, "()", &2.5f64.to_le_bytes())).unwrap();
    assert_eq!(scalar.values(scalar.tensor("w").unwrap()).unwrap(), [2.5]);
}

#[test]
fn arrays_that_are_no_numbers_are_refused_for_what_they_are() {
    for (descr, why) in
        [("'|O'", "Python objects"), ("[('a', '<f4')]", "several fields"), ("'<U5'", "type `<U5`")]
    {
        let array = npy(descr, false, "(1,)", &[0; 20]);
        let error = open_bytes("w.npy", array.clone()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.to_string().contains(why), "{error}");

        let beside = zip(&[entry("a.npy", npy("'<f4'", false, "(6,)", &le(&SIX))), entry("b.npy", array)]);
        let archive = open_bytes("arrays.npz", beside).unwrap();
        assert_eq!(archive.tensors.len(), 1);
        let [notice] = &archive.warnings[..] else { panic!("{:?}", archive.warnings) };
        assert_eq!(notice.kind, NoticeKind::NotShown);
        assert!(notice.text.contains("`b`") && notice.text.contains(why), "{notice}");
    }
}

#[test]
fn truncated_arrays_are_reported() {
    let whole = npy("'<f4'", false, "(2, 3)", &le(&SIX));
    let cut = open_bytes("w.npy", whole[..whole.len() - 1].to_vec()).unwrap();
    assert!(cut.is_damaged() && cut.damage.unwrap().is_truncation());
    let error = open_bytes("w.npy", whole[..20].to_vec()).unwrap_err();
    assert_eq!((error.kind, error.fault), (ErrorKind::Damaged, Some(DamageKind::CutShort)));
    let immense = open_bytes("w.npy", npy("'<f4'", false, "(4294967296, 4294967296)", &[])).unwrap();
    assert_eq!(immense.tensors[0].damage.as_ref().unwrap().kind, DamageKind::Shape);
}

#[test]
fn an_archive_of_arrays_opens_and_its_damage_is_reported() {
    let array = |values: &[f32]| npy("'<f4'", false, &format!("({},)", values.len()), &le(values));
    let bytes = zip(&[
        entry("layers.0.weight.npy", array(&SIX)),
        deflated("layers.0.bias.npy", array(&SIX[..2])),
        entry("notes.txt", b"no array".to_vec()),
    ]);
    let mut archive = open_bytes("arrays.npz", bytes.clone()).unwrap();
    assert_eq!((archive.format.name().as_str(), archive.is_damaged()), ("npz", false));
    let names: Vec<&str> = archive.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["layers.0.weight", "layers.0.bias"]);
    assert_eq!(archive.values(&archive.tensors[0]).unwrap(), SIX);
    assert_eq!(archive.values(&archive.tensors[1]).unwrap(), SIX[..2]);
    assert_eq!(archive.verify_checksums(), [""; 0]);

    // The last byte of the first array.
    let mut flipped = bytes.clone();
    let at = flipped.windows(24).position(|w| w == le(&SIX)).unwrap();
    flipped[at + 23] ^= 1;
    let mut flipped = open_bytes("arrays.npz", flipped).unwrap();
    assert_eq!(flipped.verify_checksums(), ["layers.0.weight"]);
    assert_eq!(flipped.tensors[0].damage.as_ref().unwrap().kind, DamageKind::ChecksumMismatch);

    // NumPy takes the last of a name.
    let twice = [&SIX[..2], &SIX[2..4]].map(|values| entry("a.npy", array(values)));
    let twice = open_bytes("arrays.npz", zip(&twice)).unwrap();
    assert_eq!(twice.values(twice.tensor("a").unwrap()).unwrap(), SIX[2..4]);
    assert!(twice.is_damaged());

    // Without its directory.
    let cut = open_bytes("arrays.npz", bytes[..bytes.len() - 30].to_vec()).unwrap();
    assert!(cut.damage.as_ref().unwrap().is(DamageKind::DirectoryLost));
    assert_eq!(cut.values(cut.tensor("layers.0.weight").unwrap()).unwrap(), SIX);
}

#[test]
fn every_truncation_and_flip_returns() {
    let bytes = zip(&[
        entry("a.npy", npy("'<f4'", true, "(2, 3)", &le(&SIX))),
        deflated("b.npy", npy("'>i8'", false, "(2,)", &[7; 16])),
    ]);
    let read = |bytes: Vec<u8>| {
        if let Ok(mut checkpoint) = open_bytes("a.npz", bytes) {
            checkpoint.verify_checksums();
            checkpoint.tensors.iter().for_each(|t| drop(t.bytes()));
        }
    };
    for at in 0..bytes.len() {
        read(bytes[..at].to_vec());
        for value in [0, 0xff, bytes[at] ^ 1] {
            let mut flipped = bytes.clone();
            flipped[at] = value;
            read(flipped);
        }
    }
}

#[test]
fn headers_written_are_headers_read() {
    let header = npy::header(DType::F32, &[2, 3]).unwrap();
    let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
    assert_eq!(&header[..10], b"\x93NUMPY\x01\0\x76\0");
    assert!(header[10..].starts_with(text.as_bytes()) && header.ends_with(b" \n"));
    let shapes: [&[usize]; 5] = [&[], &[7], &[0, 3], &[usize::MAX, 1], &[2; 2000]];
    for (dtype, shape) in
        [DType::Bool, DType::F16, DType::C128].into_iter().flat_map(|d| shapes.map(|s| (d, s)))
    {
        let header = npy::header(dtype, shape).unwrap();
        let read = Header::parse(&header).unwrap();
        assert_eq!(read.elements, ElementKind::Plain { dtype, big_endian: false });
        assert_eq!((read.fortran, read.shape.as_slice(), read.start), (false, shape, header.len() as u64));
        assert!(header.len().is_multiple_of(64) && header[6] == 1);
    }
    // Too long for 16 bits.
    let long = npy::header(DType::U8, &[1; 30_000]).unwrap();
    assert!(long.starts_with(b"\x93NUMPY\x02\0") && long.len().is_multiple_of(64));
    assert_eq!(u32::from_le_bytes(long[8..12].try_into().unwrap()) as usize, long.len() - 12);
    assert_eq!([DType::BF16, DType::F8E4M3FN, DType::C32, DType::QI8].map(npy::has_dtype), [false; 4]);
    assert_eq!(npy::header(DType::BF16, &[1]), None);
}

const WRITER: &str = r#"
import json, sys, numpy as np
rng = np.random.default_rng(0)
codes = ["<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "|i1", "<u8", "<u4", "<u2", "|u1", "|b1", ">f4", ">f8", ">i4", ">u2"]
arrays = {}
for code in codes:
    values = rng.integers(0, 2 if code == "|b1" else 100, (3, 4, 2))
    name = {"<": "little.", ">": "big.", "|": "bytes."}[code[0]] + code[1:]
    arrays[name] = values.astype(code)
    arrays[name + ".columns"] = np.asfortranarray(arrays[name])
arrays["scalar"] = np.float32(1.5)
arrays["empty"] = np.zeros((0, 3), np.float32)
np.savez(sys.argv[1] + "/stored.npz", **arrays)
np.savez_compressed(sys.argv[1] + "/deflated.npz", **arrays)
np.save(sys.argv[1] + "/alone.npy", arrays["little.f4"])
expected = {name: [list(a.shape), a.astype(np.float64).ravel().tolist()] for name, a in arrays.items()}
expected["alone"] = expected["little.f4"]
print(json.dumps(expected))
"#;

#[test]
fn numpy_and_this_read_the_same() {
    let Some(python) = peers::python(&["numpy"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let expected: std::collections::BTreeMap<String, (Vec<usize>, Vec<f64>)> =
        serde_json::from_str(&python.code(WRITER, &[folder.path()])).unwrap();
    let mut seen = 0;
    for file in ["stored.npz", "deflated.npz", "alone.npy"] {
        let mut checkpoint = open(folder.path().join(file)).unwrap();
        assert_eq!(checkpoint.verify_checksums(), [""; 0], "{file}");
        assert!(!checkpoint.is_damaged() && checkpoint.warnings.is_empty(), "{file}");
        for tensor in &checkpoint.tensors {
            let (shape, values) = &expected[&tensor.name];
            assert_eq!(tensor.shape, *shape, "{file}: {}", tensor.name);
            let found: Vec<f64> = checkpoint.values(tensor).unwrap().into_iter().map(f64::from).collect();
            assert_eq!(found, *values, "{file}: {}", tensor.name);
            seen += 1;
        }
    }
    assert_eq!(seen, 2 * (expected.len() - 1) + 1);
}

/// A directory of a thousand entries on one local header, whose array has a header of 60 kB that deflates to nothing.
#[test]
fn entries_that_lie_on_each_other_take_no_more_than_they_are() {
    const ENTRIES: u16 = 1000;
    let array = npy("'<f4'", false, &format!("({})", "1,".repeat(30_000)), &[0; 4]);
    let mut bytes = zip(&[deflated("a.npy", array)]);
    let directory = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let entry = bytes[directory..directory + 46].to_vec();
    bytes.truncate(directory);
    for i in 0..ENTRIES {
        bytes.extend(&entry[..28]);
        bytes.extend(9u16.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&entry[34..]);
        bytes.extend(format!("{i:05}.npy").as_bytes());
    }
    let size = (bytes.len() - directory) as u32;
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([ENTRIES.to_le_bytes(), ENTRIES.to_le_bytes()].concat());
    bytes.extend([size.to_le_bytes(), (directory as u32).to_le_bytes()].concat());
    bytes.extend([0, 0]);
    let archive = open_bytes("a.npz", bytes).unwrap();
    assert!((1..200).contains(&archive.tensors.len()), "{}", archive.tensors.len());
    assert_eq!(archive.tensors[0].shape.len(), 30_000);
    let expected = &archive.warnings;
    assert!(expected.len() == 9 && expected[0].text.contains("out of proportion"), "{expected:?}");
    assert!(expected[8].text.contains("more such warnings"), "{expected:?}");
}

/// Bytes in another order than a packing's are left as bytes, even next to tensors that mark a packed matrix.
#[test]
fn packed_bytes_in_another_order_stay_bytes() {
    let scale = npy("'<f4'", false, "(1,)", &le(&[2.0f32]));
    let packed = |fortran| {
        let bytes = npy("'|u1'", fortran, "(2, 4)", &[0x55, 0x65, 0x55, 0x95, 0x54, 0x55, 0x56, 0x59]);
        let archive = zip(&[entry("a.weight.npy", bytes), entry("a.weight_scale.npy", scale.clone())]);
        open_bytes("a.npz", archive).unwrap()
    };
    let row_major = packed(false);
    assert_eq!(row_major.tensors[0].dtype, DType::Ternary(TernaryPacking::HfBitnet));
    let column_major = packed(true);
    let tensor = &column_major.tensors[0];
    assert_eq!((tensor.dtype, tensor.shape.as_slice()), (DType::U8, [2, 4].as_slice()));
    assert_eq!(*tensor.bytes().unwrap(), [0x55, 0x55, 0x54, 0x56, 0x65, 0x95, 0x55, 0x59]);
    assert!(column_major.warnings.iter().any(|w| w.text.contains("strided")), "{:?}", column_major.warnings);
}

/// Texts of any length, NumPy's StringDType, in every file that NumPy writes them to.
#[test]
fn texts_are_said_to_be_texts() {
    let Some(python) = peers::python(&["numpy"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let writer = r#"
import pickle, sys, warnings, numpy as np
warnings.simplefilter("ignore")
texts = np.array(["short", "one that is too long to be kept in the array itself"], dtype=np.dtypes.StringDType())
none = np.array(["a", np.nan], dtype=np.dtypes.StringDType(na_object=np.nan, coerce=False))
np.save(sys.argv[1] + "/a.npy", texts, allow_pickle=True)
np.savez(sys.argv[1] + "/a.npz", texts=texts, numbers=np.arange(3.0))
for protocol in [0, 2, 5]:
    with open(f"{sys.argv[1]}/{protocol}.pkl", "wb") as file:
        pickle.dump({"texts": texts, "none": none, "many": np.tile(texts, (2, 50))}, file, protocol)
"#;
    python.code(writer, &[folder.path()]);
    let at = |name: &str| folder.path().join(name);
    let error = open(at("a.npy")).unwrap_err().to_string();
    assert!(error.contains("texts of any length (NumPy's StringDType), which are pickled"), "{error}");
    let archive = open(at("a.npz")).unwrap();
    assert_eq!((archive.tensors.len(), archive.tensors[0].name.as_str()), (1, "numbers"));
    assert!(archive.warnings[0].text.contains("StringDType"), "{:?}", archive.warnings);
    for name in ["2.pkl", "5.pkl"] {
        let pickle = open(at(name)).unwrap();
        let json = ckpt_inspect::metadata::to_json(&pickle.metadata);
        assert_eq!(json["texts"][0], "short", "{name}: {json}");
        assert_eq!(json["many"], "a numpy array of texts [2, 100]", "{name}: {json}");
    }
    for name in ["a.npy", "a.npz", "0.pkl", "2.pkl", "5.pkl"] {
        let scan = scan(&at(name), &Default::default()).unwrap();
        assert_eq!(scan.severity(), None, "{name}: {:?}", scan.findings);
    }
}
