"""DICOM, by pydicom: from files to slices, from slices to stacks, from stacks to voxels."""
