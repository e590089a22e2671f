//! Writes the custom resource definitions into crds/yaml. A test fails while they are not what this would write.

use std::path::Path;

use crds::definitions;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    for (part, all) in [("hub", definitions::of_the_hub()), ("member", definitions::of_members())] {
        std::fs::create_dir_all(folder.join(part))?;
        std::fs::write(folder.join(part).join(definitions::KUSTOMIZATION), definitions::kustomization(&all))?;
        for definition in all {
            let file = folder.join(part).join(definitions::file_name(&definition));
            std::fs::write(&file, definitions::yaml(&definition)?)?;
            println!("{}", file.display());
        }
    }
    Ok(())
}
