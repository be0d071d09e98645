"""Language modelling on bytes: any file or folder, by default the sources of the standard library."""
