"""Which tags of a DICOM are kept in a folder that goes elsewhere: those listed here, and no other.

A tag is listed where a viewer or a program needs it to show the pixels, or where it says what is shown. Texts that
people type are not: each is kept only if it is one of a few known words. Numbers are written anew as numbers.
"""

NUMBERS = frozenset((
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "Rows", "Columns", "SamplesPerPixel",
    "PlanarConfiguration", "NumberOfFrames", "PixelPaddingValue", "PixelAspectRatio", "RescaleSlope",
    "RescaleIntercept", "WindowCenter", "WindowWidth", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "ImageOrientationPatient", "ImagePositionPatient", "InstanceNumber", "LUTDescriptor",
))  # fmt: skip

# The numbers of lookup tables, as they are stored
TABLES = frozenset((
    "LUTData", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
))  # fmt: skip

SEQUENCES = frozenset((
    "ModalityLUTSequence", "VOILUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "FrameVOILUTSequence",
    "PixelValueTransformationSequence",
))  # fmt: skip

UIDS = frozenset(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


WORDS = {
    "Modality": _words("CR CT DX MG MR NM OT PT PX RF SC US XA XC"),
    "PhotometricInterpretation": frozenset(("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR")),
    "VOILUTFunction": frozenset(("LINEAR", "LINEAR_EXACT", "SIGMOID")),
    "RescaleType": frozenset(("HU", "US", "OD")),
    "ModalityLUTType": frozenset(("HU", "US", "OD")),
    "ViewPosition": _words("AP PA LL RL LLD RLD LLO RLO CC MLO ML LM"),
    "ImageLaterality": _words("L R B U"),
    "Laterality": _words("L R"),
    "BodyPartExamined": _words(
        "ABDOMEN ANKLE ARM BREAST CHEST CSPINE ELBOW FINGER FOOT HAND HEAD HIP KNEE LEG LSPINE NECK PELVIS SHOULDER "
        "SKULL SPINE TSPINE WRIST"
    ),
    "BurnedInAnnotation": frozenset(("YES", "NO")),
    "LossyImageCompression": frozenset(("00", "01")),
    "PatientOrientation": _words("L R A P H F"),
}
