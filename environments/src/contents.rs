//! What of a distribution ships, file by file: from its RECORD when it is installed, from its checkout when it is
//! editable. The rules in words: docs/packages.md.
//!
//! Reads lists, folders and metadata; never runs, imports or builds anything. Driven by `pack` and `shipping`.

use crate::names;
use crate::record::{self, Place};
use crate::refusal::{Refusal, Warning};
use crate::scan::{Distribution, Root, Source};
use crate::wheel::{Content, Contents};
use ignore::WalkBuilder;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The contents of the wheel that a distribution ships as.
pub(crate) fn of(distribution: &Distribution) -> Result<(Contents, Vec<Warning>), Refusal> {
    if distribution.source == Source::Editable { editable(distribution) } else { installed(distribution) }
}

pub(crate) fn refusal(
    distribution: &Distribution,
    code: &'static str,
    reason: impl Into<String>,
    remedy: impl Into<String>,
) -> Refusal {
    let package = format!("{}=={}", distribution.name, distribution.version);
    Refusal { package, code, reason: reason.into(), remedy: remedy.into() }
}

fn empty(distribution: &Distribution, tags: Vec<String>) -> Result<Contents, Refusal> {
    let name = names::normalise(&distribution.name).replace('-', "_");
    // A `-` would end the version within the file's name.
    let version = distribution.version.replace('-', "_");
    if name.is_empty() || !names::is_version(&version) {
        let reason = "has a name or version that no package may have";
        return Err(refusal(distribution, "metadata_unreadable", reason, reinstall(distribution)));
    }
    let pure = tags.iter().all(|tag| tag.ends_with("-none-any"));
    Ok(Contents { name, version, tags, pure, files: BTreeMap::new() })
}

fn reinstall(distribution: &Distribution) -> String {
    format!("install it again: `pip install --force-reinstall --no-deps {}`", distribution.name)
}

/// The installed files, put back together as the wheel they came from.
fn installed(distribution: &Distribution) -> Result<(Contents, Vec<Warning>), Refusal> {
    let mut contents = empty(distribution, distribution.tags.clone())?;
    if contents.tags.is_empty() {
        let reason = "was installed without a wheel, so nothing says which machines its files fit";
        return Err(refusal(distribution, "record_missing", reason, reinstall(distribution)));
    }
    for (recorded, place) in recorded(distribution)? {
        let path = distribution.location.join(&recorded);
        let archive = match place {
            Place::Remade => continue,
            Place::Library(inside) => in_metadata(&inside, distribution, &contents).unwrap_or(inside),
            Place::Data(below) => {
                format!("{}-{}.data/data/{below}", contents.name, contents.version)
            }
        };
        if !path.is_file() {
            let reason = format!("lacks its installed file {recorded}");
            return Err(refusal(distribution, "installed_files_missing", reason, reinstall(distribution)));
        }
        contents.files.insert(archive, Content::File(path));
    }
    Ok((contents, Vec::new()))
}

fn recorded(distribution: &Distribution) -> Result<Vec<(String, Place)>, Refusal> {
    let list = distribution.location.join(&distribution.metadata).join("RECORD");
    let text = fs::read_to_string(&list).map_err(|error| {
        let reason = format!("has no readable list of its files (RECORD: {error})");
        let remedy =
            "install it with pip or uv into a virtual environment; packages of the operating system have no such list";
        refusal(distribution, "record_missing", reason, remedy)
    })?;
    let unsafe_path = |error: record::RecordError| {
        refusal(distribution, "record_escapes", format!("cannot ship: {error}"), reinstall(distribution))
    };
    let mut out = Vec::new();
    for recorded in record::paths(&text).map_err(unsafe_path)? {
        let place = record::place(&recorded, &distribution.location, &distribution.metadata).map_err(unsafe_path)?;
        out.push((recorded, place));
    }
    Ok(out)
}

/// The archive's path of a file of the metadata folder, whose name is spelt anew.
fn in_metadata(inside: &str, distribution: &Distribution, contents: &Contents) -> Option<String> {
    let rest = inside.strip_prefix(&distribution.metadata)?.strip_prefix('/')?;
    Some(format!("{}/{rest}", contents.metadata_folder()))
}

/// A project's package folders as they are now, with the metadata of its installation.
fn editable(distribution: &Distribution) -> Result<(Contents, Vec<Warning>), Refusal> {
    if let Some(tag) = distribution.tags.iter().find(|tag| !tag.ends_with("-none-any")) {
        return Err(compiled(distribution, &format!("its build made a wheel for {tag}")));
    }
    let mut contents = empty(distribution, vec!["py3-none-any".to_owned()])?;
    for (recorded, place) in recorded(distribution)? {
        if let Place::Library(inside) = place
            && let Some(archive) = in_metadata(&inside, distribution, &contents)
        {
            contents.files.insert(archive, Content::File(distribution.location.join(recorded)));
        }
    }
    let mut warnings = Vec::new();
    let before = contents.files.len();
    for root in &distribution.roots {
        add_root(distribution, root, &mut contents, &mut warnings)?;
    }
    if contents.files.len() == before {
        let reason = "is editable, but none of its package folders could be found";
        let remedy = "install it with a current pip or uv (`pip install -e .`), or not editable (`pip install .`)";
        return Err(refusal(distribution, "nothing_to_ship", reason, remedy));
    }
    Ok((contents, warnings))
}

fn compiled(distribution: &Distribution, evidence: &str) -> Refusal {
    let reason = format!("is editable and holds compiled code ({evidence})");
    let remedy = "install it not editable (`pip install .`): then its wheel ships where it fits the hosts";
    refusal(distribution, "compiled_local_code", reason, remedy)
}

fn add_root(
    distribution: &Distribution,
    root: &Root,
    contents: &mut Contents,
    warnings: &mut Vec<Warning>,
) -> Result<(), Refusal> {
    if is_compiled(&root.path) {
        return Err(compiled(distribution, &root.path.display().to_string()));
    }
    let parts: Vec<&str> = root.package.split('.').collect();
    let word = |part: &&str| !part.is_empty() && !part.contains(['/', '\\', '\0']);
    if !parts.iter().all(word) {
        let reason = format!("maps a package of the impossible name {:?}", root.package);
        return Err(refusal(distribution, "metadata_unreadable", reason, reinstall(distribution)));
    }
    let archive = parts.join("/");
    if root.path.is_file() {
        contents.files.insert(format!("{archive}.py"), Content::File(root.path.clone()));
        return Ok(());
    }
    let every = every_file(&root.path);
    if let Some(found) = every.iter().find(|path| is_compiled(path)) {
        return Err(compiled(distribution, &found.display().to_string()));
    }
    let kept = kept_files(distribution, &root.path, warnings)?;
    warnings.extend(ignored_code(distribution, &every, &kept));
    for path in kept {
        let inside = path.strip_prefix(&root.path).ok().and_then(Path::to_str).map(record::with_slashes);
        let Some(inside) = inside else {
            let reason = format!("holds a file whose name is not UTF-8: {}", path.display());
            return Err(refusal(distribution, "unreadable_file", reason, "rename the file, or let git ignore it"));
        };
        contents.files.entry(format!("{archive}/{inside}")).or_insert(Content::File(path));
    }
    Ok(())
}

/// A warning about code that `import` finds here and will not find there.
fn ignored_code(distribution: &Distribution, every: &[PathBuf], kept: &BTreeSet<PathBuf>) -> Option<Warning> {
    let is_code = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "py");
    let ignored: Vec<&PathBuf> = every.iter().filter(is_code).filter(|path| !kept.contains(*path)).collect();
    ignored.first().map(|first| Warning {
        code: "ignored_code",
        message: format!(
            "{}: {} Python file(s) that git ignores do not ship, e.g. {}",
            distribution.name,
            ignored.len(),
            first.display()
        ),
        remedy: "if it is needed there, add a line `!NAME` to a file `.towlineignore` beside it".to_owned(),
    })
}

/// Extension modules, by the endings that `import` knows.
fn is_compiled(path: &Path) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| matches!(e, "so" | "pyd" | "dylib"))
}

fn is_left_out(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == ".git" || name == ".towlineignore" || record::is_bytecode(&name)
}

/// Every file, ignored or not.
fn every_file(root: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(root)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| !is_left_out(entry.path()))
        // What cannot be read here is reported by the walk that decides.
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .collect()
}

/// The files below `root` that git would not ignore, whether or not there is a repository.
fn kept_files(
    distribution: &Distribution,
    root: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<BTreeSet<PathBuf>, Refusal> {
    let mut out = BTreeSet::new();
    for entry in walker(distribution, root).build() {
        let entry = entry.map_err(|error| {
            let reason = format!("cannot be read: {error}");
            refusal(distribution, "unreadable_file", reason, "make the file readable, or let git ignore it")
        })?;
        let path = entry.path();
        let Some(kind) = entry.file_type().filter(|_| path.starts_with(root)) else {
            continue;
        };
        if kind.is_file() || (kind.is_symlink() && link_stays_inside(distribution, root, path)) {
            out.insert(path.to_owned());
        } else if kind.is_symlink() {
            warnings.push(Warning {
                code: "link_left_out",
                message: format!("{}: the link {} does not ship", distribution.name, path.display()),
                remedy: "links ship when they point to a file within the project; copy the target there".to_owned(),
            });
        }
    }
    Ok(out)
}

fn link_stays_inside(distribution: &Distribution, root: &Path, link: &Path) -> bool {
    let Ok(target) = link.canonicalize() else {
        return false;
    };
    let inside = |folder: &Path| folder.canonicalize().is_ok_and(|folder| target.starts_with(folder));
    target.is_file() && (inside(root) || distribution.project.as_deref().is_some_and(inside))
}

/// Within a repository git's own rules decide, up to its root. Without one, the `.gitignore` files from the project's
/// folder downwards do; those above it are about something else.
fn walker(distribution: &Distribution, root: &Path) -> WalkBuilder {
    let in_repository = root.ancestors().any(|folder| folder.join(".git").exists());
    let project = distribution.project.as_deref().filter(|project| root.starts_with(project));
    let start = if in_repository { root } else { project.unwrap_or(root) };
    let mut builder = WalkBuilder::new(start);
    let root = root.to_owned();
    builder
        .standard_filters(false)
        .parents(in_repository)
        .git_ignore(true)
        .git_exclude(in_repository)
        .git_global(in_repository)
        .require_git(in_repository)
        .add_custom_ignore_filename(".towlineignore")
        .sort_by_file_name(std::cmp::Ord::cmp)
        .filter_entry(move |entry| {
            let path = entry.path();
            !is_left_out(path) && (path.starts_with(&root) || root.starts_with(path))
        });
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("a folder")).expect("makes folders");
        fs::write(path, text).expect("writes");
    }

    /// An editable project in `folder/project` and its installation in `folder/site-packages`.
    fn project(folder: &Path) -> Distribution {
        let location = folder.join("lib/python3.11/site-packages");
        let metadata = "demo_lib-1.0.dist-info";
        let record = "__editable__.demo_lib-1.0.pth,,\ndemo_lib-1.0.dist-info/METADATA,,\n\
                      demo_lib-1.0.dist-info/direct_url.json,,\ndemo_lib-1.0.dist-info/RECORD,,\n";
        write(&location.join(metadata).join("RECORD"), record);
        write(&location.join(metadata).join("METADATA"), "Name: demo-lib\nVersion: 1.0\n");
        write(&location.join(metadata).join("direct_url.json"), "{}");
        let package = folder.join("project/src/demo_lib");
        write(&package.join("__init__.py"), "x = 1\n");
        write(&package.join("data/table.csv"), "a,b\n");
        write(&package.join("__pycache__/x.cpython-311.pyc"), "");
        Distribution {
            name: "demo-lib".to_owned(),
            version: "1.0".to_owned(),
            source: Source::Editable,
            location,
            metadata: metadata.to_owned(),
            tags: vec!["py3-none-any".to_owned()],
            project: Some(folder.join("project")),
            roots: vec![Root { package: "demo_lib".to_owned(), path: package }],
        }
    }

    fn shipped(distribution: &Distribution) -> Vec<String> {
        of(distribution).expect("ships").0.files.into_keys().collect()
    }

    #[test]
    fn an_editable_project_ships_its_package_folder_with_data_files() {
        let folder = tempfile::tempdir().expect("a directory");
        let wanted = ["demo_lib-1.0.dist-info/METADATA", "demo_lib/__init__.py", "demo_lib/data/table.csv"];
        assert_eq!(shipped(&project(folder.path())), wanted);
    }

    #[test]
    fn what_git_ignores_does_not_ship_with_or_without_a_repository() {
        for repository in [false, true] {
            let folder = tempfile::tempdir().expect("a directory");
            let distribution = project(folder.path());
            let package = &distribution.roots[0].path;
            if repository {
                fs::create_dir(folder.path().join("project/.git")).expect("makes");
            }
            write(&folder.path().join(".gitignore"), "*\n"); // above the project: about something else
            write(&folder.path().join("project/.gitignore"), "*.secret\n/src/demo_lib/_version.py\n");
            write(&package.join("a.secret"), "x");
            write(&package.join("sub/.gitignore"), "*.tmp\n");
            write(&package.join("sub/b.tmp"), "x");
            write(&package.join("sub/c.txt"), "x");
            write(&package.join("_version.py"), "x");
            let (contents, warnings) = of(&distribution).expect("ships");
            let names: Vec<String> = contents.files.into_keys().collect();
            assert!(names.contains(&"demo_lib/sub/c.txt".to_owned()), "{repository} {names:?}");
            assert!(
                !names.iter().any(|name| name.contains("secret") || name.contains(".tmp")),
                "{repository} {names:?}"
            );
            assert!(!names.contains(&"demo_lib/_version.py".to_owned()), "{repository} {names:?}");
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert_eq!(warnings[0].code, "ignored_code");
            write(&package.join(".towlineignore"), "!_version.py\n");
            assert!(shipped(&distribution).contains(&"demo_lib/_version.py".to_owned()), "{repository}");
        }
    }

    #[test]
    fn compiled_code_in_an_editable_project_is_refused_even_when_git_ignores_it() {
        let folder = tempfile::tempdir().expect("a directory");
        let distribution = project(folder.path());
        write(&folder.path().join("project/.gitignore"), "*.so\n");
        write(&distribution.roots[0].path.join("fast.cpython-311-x86_64-linux-gnu.so"), "ELF");
        let refused = of(&distribution).expect_err("compiled");
        assert_eq!(refused.code, "compiled_local_code");
        assert!(refused.package.contains("demo-lib"));
    }

    #[test]
    fn an_editable_wheel_for_one_platform_is_refused() {
        let folder = tempfile::tempdir().expect("a directory");
        let mut distribution = project(folder.path());
        distribution.tags = vec!["cp311-cp311-linux_x86_64".to_owned()];
        assert_eq!(of(&distribution).expect_err("compiled").code, "compiled_local_code");
    }

    #[test]
    fn an_editable_project_without_folders_is_refused() {
        let folder = tempfile::tempdir().expect("a directory");
        let mut distribution = project(folder.path());
        distribution.roots.clear();
        assert_eq!(of(&distribution).expect_err("empty").code, "nothing_to_ship");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_out_of_the_project_stays_behind_with_a_warning() {
        let folder = tempfile::tempdir().expect("a directory");
        let distribution = project(folder.path());
        write(&folder.path().join("outside.txt"), "secret");
        let package = &distribution.roots[0].path;
        std::os::unix::fs::symlink(folder.path().join("outside.txt"), package.join("out.txt")).expect("links");
        std::os::unix::fs::symlink("__init__.py", package.join("in.py")).expect("links");
        let (contents, warnings) = of(&distribution).expect("ships");
        assert!(contents.files.contains_key("demo_lib/in.py"));
        assert!(!contents.files.contains_key("demo_lib/out.txt"));
        assert_eq!(warnings.iter().map(|w| w.code).collect::<Vec<_>>(), ["link_left_out"]);
    }

    fn installed_sample(folder: &Path, record: &str) -> Distribution {
        let distribution = Distribution { source: Source::Local, project: None, roots: vec![], ..project(folder) };
        write(&distribution.location.join("demo_lib/__init__.py"), "x = 1\n");
        write(&folder.join("share/x.txt"), "x");
        write(&distribution.location.join(&distribution.metadata).join("RECORD"), record);
        distribution
    }

    #[test]
    fn an_installed_distribution_ships_what_its_record_lists() {
        let folder = tempfile::tempdir().expect("a directory");
        let record = "demo_lib/__init__.py,,\ndemo_lib/__pycache__/a.pyc,,\n../../../bin/demo,,\n\
                      ../../../share/x.txt,,\ndemo_lib-1.0.dist-info/METADATA,,\ndemo_lib-1.0.dist-info/RECORD,,\n";
        let wanted = ["demo_lib-1.0.data/data/share/x.txt", "demo_lib-1.0.dist-info/METADATA", "demo_lib/__init__.py"];
        assert_eq!(shipped(&installed_sample(folder.path(), record)), wanted);
    }

    #[test]
    fn a_record_that_points_elsewhere_or_at_nothing_is_refused() {
        let cases = [
            ("../../../../../../etc/passwd,,\n", "record_escapes"),
            ("/etc/passwd,,\n", "record_escapes"),
            ("demo_lib/../../../../../x,,\n", "record_escapes"),
            ("demo_lib/gone.py,,\n", "installed_files_missing"),
        ];
        for (record, code) in cases {
            let folder = tempfile::tempdir().expect("a directory");
            let refused = of(&installed_sample(folder.path(), record)).expect_err(record);
            assert_eq!(refused.code, code, "{record}");
            assert!(refused.package.contains("demo-lib==1.0"));
        }
    }
}
