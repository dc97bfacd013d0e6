//! Preparing as a whole: a hand-made installation, a stand-in for `uv` that answers as an index would, and the lock.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use towline_environments::indexes::Indexes;
use towline_environments::lock::{Lock, WheelSource};
use towline_environments::prepare::{PrepareError, Prepared, Target, Tools, prepare};
use towline_environments::scan::{Distribution, Root, Scan, ScannedInterpreter, Source};
use towline_environments::shipping;

const HASH: &str = "8bb5376d2006950386f8c6427613334a2acadc5f559cb80e638d00b4df957e37";

/// An installation with `distributed` and `click` from an index, `only-source` that no index has a wheel for, and the
/// editable project `demo-lib`.
struct World {
    folder: TempDir,
    scan: Scan,
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("makes folders");
    fs::write(path, text).expect("writes");
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let site = folder.path().join("venv/lib/python3.11/site-packages");
        let package = folder.path().join("project/src/demo_lib");
        write(&package.join("__init__.py"), "answer = 42\n");
        write(&package.join("data/table.csv"), "a,b\n1,2\n");
        let mut distributions = Vec::new();
        for (name, version) in
            [("click", "8.5.1"), ("distributed", "2026.8.0"), ("only-source", "0.3"), ("pip", "25.0")]
        {
            distributions.push(install(&site, name, version, Source::Index));
        }
        let mut editable = install(&site, "demo-lib", "1.0", Source::Editable);
        editable.project = Some(folder.path().join("project"));
        editable.roots = vec![Root { package: "demo_lib".to_owned(), path: package }];
        distributions.push(editable);
        let interpreter = ScannedInterpreter {
            implementation: "cpython".to_owned(),
            version: "3.11.2".to_owned(),
            executable: folder.path().join("venv/bin/python"),
            prefix: folder.path().join("venv"),
            platform: "x86_64-manylinux_2_36".to_owned(),
            conda: false,
        };
        let world = Self { folder, scan: Scan { v: 0, interpreter, distributions } };
        world.uv(&answering());
        world
    }

    /// Be `uv`: a shell script that finds its input on standard input.
    fn uv(&self, script: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.folder.path().join("uv");
        write(&path, &format!("#!/bin/sh\necho run >> '{}'\n{script}", self.folder.path().join("runs").display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("sets");
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.folder.path().join("runs")).unwrap_or_default().lines().count()
    }

    fn tools(&self) -> Tools {
        Tools {
            uv: self.folder.path().join("uv"),
            cache_dir: self.folder.path().join("cache"),
            indexes: Indexes::default(),
            deadline: Duration::from_secs(30),
        }
    }

    fn prepare(&self) -> Result<Prepared, PrepareError> {
        prepare(&self.scan, &target(), &self.tools(), &mut |_| {})
    }

    fn package_file(&self) -> PathBuf {
        self.folder.path().join("project/src/demo_lib/__init__.py")
    }

    fn distribution(&mut self, name: &str) -> &mut Distribution {
        self.scan.distributions.iter_mut().find(|one| one.name == name).expect("it is there")
    }
}

fn target() -> Target {
    Target { platform: "x86_64-manylinux_2_36".to_owned(), interpreters: vec!["cpython-3.11.2".to_owned()] }
}

fn install(site: &Path, name: &str, version: &str, source: Source) -> Distribution {
    let module = name.replace('-', "_");
    let metadata = format!("{module}-{version}.dist-info");
    write(&site.join(&module).join("__init__.py"), &format!("name = '{name}'\n"));
    write(&site.join(&metadata).join("METADATA"), &format!("Name: {name}\nVersion: {version}\n"));
    write(
        &site.join(&metadata).join("RECORD"),
        &format!("{module}/__init__.py,,\n{metadata}/METADATA,,\n{metadata}/RECORD,,\n"),
    );
    Distribution {
        name: name.to_owned(),
        version: version.to_owned(),
        source,
        location: site.to_owned(),
        metadata,
        tags: vec!["py3-none-any".to_owned()],
        project: None,
        roots: vec![],
    }
}

/// What an index says that has `click` and `distributed`, and only a source archive of `only-source`.
fn answering() -> String {
    let package = |name: &str, version: &str| {
        format!(
            "[[packages]]\nname = \"{name}\"\nversion = \"{version}\"\nwheels = [{{ url = \
             \"https://index.example/f/{name}-{version}-py3-none-any.whl\", hashes = {{ sha256 = \"{HASH}\" }} }}]\n"
        )
    };
    format!(
        "input=$(cat)\ncase \"$input\" in *only-source*)\n  echo 'error: No solution found when resolving dependencies' >&2\n  \
         echo '  cause: Because only-source==0.3 has no usable wheels and you require only-source==0.3' >&2\n  exit 1;;\n\
         esac\ncat <<'EOF'\n{}{}EOF\n",
        package("click", "8.5.1"),
        package("distributed", "2026.8.0")
    )
}

#[test]
fn an_index_gives_what_it_has_and_the_rest_is_packed() {
    let world = World::new();
    let prepared = world.prepare().expect("prepares");
    let of = |name: &str| {
        let wheel = prepared.lock.wheels.iter().find(|wheel| wheel.name == name);
        wheel.map(|wheel| wheel.source.clone())
    };
    assert_eq!(
        of("click"),
        Some(WheelSource::Index("https://index.example/f/click-8.5.1-py3-none-any.whl".to_owned()))
    );
    assert_eq!(
        (of("only-source"), of("demo-lib"), of("pip")),
        (Some(WheelSource::Blob), Some(WheelSource::Blob), None)
    );
    assert_eq!(prepared.blobs.len(), 3, "two wheels and the lock");
    for blob in &prepared.blobs {
        let (digest, size) = towline_environments::wheel::digest_of(&blob.path).expect("is there");
        assert_eq!((&digest, size), (&blob.digest, blob.size));
    }
    let read = Lock::parse_as(&prepared.lock_bytes, &prepared.spec.digest).expect("reads");
    assert_eq!(read, prepared.lock);
}

#[test]
fn the_same_content_is_the_same_environment_and_an_edit_is_another() {
    let world = World::new();
    let first = world.prepare().expect("prepares").spec.digest;
    let runs = world.runs();
    let file = fs::File::options().append(true).open(world.package_file()).expect("opens");
    file.set_modified(SystemTime::now() - Duration::from_secs(5_000)).expect("sets");
    assert_eq!(world.prepare().expect("prepares").spec.digest, first);
    assert_eq!(world.runs(), runs, "the index's answer is kept");
    write(&world.package_file(), "answer = 43\n");
    let edited = world.prepare().expect("prepares").spec.digest;
    assert_ne!(edited, first);
    write(&world.package_file(), "answer = 42\n");
    assert_eq!(world.prepare().expect("prepares").spec.digest, first);
    // Somebody else with the same packages.
    assert_eq!(World::new().prepare().expect("prepares").spec.digest, first);
}

#[test]
fn a_damaged_cache_is_made_again() {
    let world = World::new();
    let first = world.prepare().expect("prepares");
    let wheel = first.blobs.iter().find(|blob| blob.path.ends_with("demo_lib-1.0-py3-none-any.whl")).expect("packed");
    fs::write(&wheel.path, "torn").expect("writes");
    let again = world.prepare().expect("prepares");
    assert_eq!(again.spec.digest, first.spec.digest);
    assert_eq!(towline_environments::wheel::digest_of(&wheel.path).expect("is there").0, wheel.digest);
}

#[test]
fn words_of_uv_that_nobody_knows_are_answered_by_halves() {
    let world = World::new();
    world.uv(&answering().replace("Because only-source==0.3 has no usable wheels", "Nope"));
    let first = world.prepare().expect("prepares").spec.digest;
    assert_eq!(World::new().prepare().expect("prepares").spec.digest, first);
    assert!(world.runs() > 2);
}

#[test]
fn no_credential_reaches_the_lock_and_a_private_host_is_packed() {
    let world = World::new();
    world.uv(&answering().replace("https://index.example/f/click", "https://me:CANARY@index.example/f/click"));
    let prepared = world.prepare().expect("prepares");
    assert!(!String::from_utf8_lossy(&prepared.lock_bytes).contains("CANARY"));
    assert_eq!(prepared.blobs.len(), 4);
    let mut tools = World::new().tools();
    let private = World::new();
    tools.uv = private.tools().uv;
    tools.indexes.private_hosts.insert("index.example".to_owned());
    let prepared = prepare(&private.scan, &target(), &tools, &mut |_| {}).expect("prepares");
    assert!(prepared.lock.wheels.iter().all(|wheel| wheel.source == WheelSource::Blob));
}

#[test]
fn an_index_that_is_down_or_hangs_is_told_within_the_deadline() {
    let world = World::new();
    world.uv("echo 'error: Request failed after 2 retries' >&2; echo '  cause: Failed to fetch: \
         https://me:CANARY@index.example/simple/click/' >&2; echo '  cause: dns error' >&2; exit 2");
    let error = world.prepare().expect_err("down");
    assert_eq!(error.code(), "index_unreachable");
    assert!(error.to_string().contains("click") && !error.to_string().contains("CANARY"), "{error}");
    world.uv("sleep 60");
    let tools = Tools { deadline: Duration::from_millis(200), ..world.tools() };
    let begun = Instant::now();
    let error = prepare(&world.scan, &target(), &tools, &mut |_| {}).expect_err("hangs");
    assert_eq!(error.code(), "index_unreachable");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn each_refusal_has_its_code_and_remedy_and_comes_before_uv_runs() {
    type Change = fn(&mut World);
    let cases: [(&str, Change); 9] = [
        ("conda_environment", |w| w.scan.interpreter.conda = true),
        ("conda_environment", |w| w.distribution("click").source = Source::Conda),
        ("vcs_install", |w| w.distribution("click").source = Source::Vcs),
        ("legacy_install", |w| w.distribution("click").source = Source::Legacy),
        ("distributed_missing", |w| w.scan.distributions.retain(|one| one.name != "distributed")),
        ("distributed_unsupported", |w| w.distribution("distributed").version = "2022.1.0".to_owned()),
        ("python_unsupported", |w| w.scan.interpreter.version = "3.9.1".to_owned()),
        ("python_unsupported", |w| w.scan.interpreter.implementation = "pypy".to_owned()),
        ("interpreter_missing", |w| w.scan.interpreter.version = "3.12.0".to_owned()),
    ];
    for (code, change) in cases {
        let mut world = World::new();
        change(&mut world);
        let error = world.prepare().expect_err(code);
        assert_eq!(error.code(), code, "{error}");
        assert!(error.remedy().len() > 10 && error.to_string().len() > 10, "{error}");
        assert_eq!(world.runs(), 0);
    }
}

#[test]
fn all_refusals_are_told_at_once() {
    let mut world = World::new();
    world.distribution("click").source = Source::Vcs;
    world.distribution("only-source").source = Source::Conda;
    match world.prepare().expect_err("two") {
        PrepareError::Refused(refusals) => assert_eq!(refusals.len(), 2),
        other => panic!("{other}"),
    }
}

#[test]
fn what_fits_no_host_is_named_with_its_tag() {
    let mut world = World::new();
    world.distribution("only-source").tags = vec!["cp311-cp311-macosx_11_0_arm64".to_owned()];
    let error = world.prepare().expect_err("another platform");
    assert_eq!(error.code(), "platform_differs");
    let text = error.to_string();
    assert!(text.contains("only-source==0.3") && text.contains("macosx_11_0_arm64"), "{text}");
}

#[test]
fn shipping_lists_local_code_with_sizes_and_concerns() {
    let world = World::new();
    write(&world.folder.path().join("project/src/demo_lib/.env"), "TOKEN=x");
    let shipping = shipping(&world.scan);
    let names: Vec<&str> = shipping.files.iter().map(|file| file.archive.as_str()).collect();
    let wanted =
        ["demo_lib-1.0.dist-info/METADATA", "demo_lib/.env", "demo_lib/__init__.py", "demo_lib/data/table.csv"];
    assert_eq!(names, wanted);
    assert_eq!(shipping.warnings.iter().map(|warning| warning.code).collect::<Vec<_>>(), ["looks_secret"]);
    assert!(shipping.total() > 20);
}

#[test]
fn much_local_data_is_worth_a_word() {
    let world = World::new();
    let large = fs::File::create(world.folder.path().join("project/src/demo_lib/data/large.bin")).expect("creates");
    large.set_len(120 * 1024 * 1024).expect("a sparse file");
    let codes: Vec<_> = shipping(&world.scan).warnings.iter().map(|warning| warning.code).collect();
    assert_eq!(codes, ["much_local_code"]);
}
