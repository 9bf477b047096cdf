"""What a text may not hold of a DICOM's header, in the forms that people write, and what is no such thing."""

import io

import numpy as np
import pytest
from made_dicom import make_dicom
from pydicom import dcmread

from vglm_train.image.dicom.named import Names, names_of, tags_in

HEADER = {
    "SpecificCharacterSet": "ISO_IR 192",
    "PatientName": "Marchetti^Egor=欧阳^建华",
    "OtherPatientNames": ["Lindqvist-Ruiz^Anna Sofia^O'Neil", "高^明", "司马小燕", "Li^Na", "Müller^José"],
    "PatientID": "4711",
    "PatientBirthDate": "19610203",
    "StudyDate": "20240315",
    "AccessionNumber": "A-99/12345",
    "StudyID": "S011",
    "ReferringPhysicianName": "Grey^Meredith",
    "PerformingPhysicianName": "张^丽华",
    "NameOfPhysiciansReadingStudy": ["Kowalczyk^Jan"],
    "InstitutionName": "St. Helen Clinic",
}


def names(**tags: object) -> Names:
    return names_of(dcmread(io.BytesIO(make_dicom(np.zeros((2, 2), np.uint8), {**HEADER, **tags}))))


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("PatientName", "Mr. Marchetti was seen."),
        ("PatientName", "ＥＧＯＲ, again"),
        ("PatientName", "欧阳女士，双肺清晰"),
        ("PatientName", "患者建华"),
        ("PatientName", "欧阳 建华 胸片"),
        ("OtherPatientNames", "LINDQVIST's film"),
        ("OtherPatientNames", "sofia: no change"),
        ("OtherPatientNames", "Mrs O’Neil"),
        ("OtherPatientNames", "高某，女"),
        ("OtherPatientNames", "高先生"),
        ("OtherPatientNames", "司马女士"),
        ("OtherPatientNames", "小燕复查"),
        ("OtherPatientNames", "Ms. Li returned"),
        ("OtherPatientNames", "Mr. Mueller-Muller"),
        ("OtherPatientNames", "seen by José"),
        ("PatientID", "patient 4711"),
        ("AccessionNumber", "MRN a-99/12345"),
        ("PatientID", "检查号：4711"),
        ("StudyID", "Study s011."),
        ("ReferringPhysicianName", "for Dr. Grey"),
        ("PerformingPhysicianName", "张医生"),
        ("NameOfPhysiciansReadingStudy", "read by Kowalczyk"),
        ("InstitutionName", "St. Helen clinic, ward 2"),
        ("PatientBirthDate", "born 3 Feb. 1961"),
        *(
            ("StudyDate", text)
            for text in (
                "15 March 2024", "15th of March, 2024", "March 15, 2024", "Mar 15th 2024", "15-Mar-2024", "15MAR2024",
                "seen March 15", "15/03/2024", "03/15/2024", "15.3.24", "2024-3-15", "2024. 03. 15", "20240315",
                "2024年3月15日", "2024 年 03 月 15 号", "于3月15日", "二〇二四年三月十五日", "二零二四年三月十五日",
            )
        ),
    ],
)  # fmt: skip
def test_what_names_a_patient_a_doctor_or_a_day_is_found(tag: str, text: str) -> None:
    assert tags_in(["No effusion.", text], names()) == [tag]


@pytest.mark.parametrize(
    "text",
    [
        "egoristic marchettini",
        "高密度影，高度怀疑",
        "明显好转，光明",
        "丽人，张力性气胸",
        "li in na",
        "4711 mm, a T12 fracture, S0111",
        "15 March 2019, 3月14日, 2019年3月15日",
        "march 150, 1 5 3, 5 March, 115/03/2024",
        "三月五日，十三月十五日",
        "st. helen",
    ],
)
def test_other_words_and_days_are_not(text: str) -> None:
    found = tags_in([text], names(OtherPatientNames=["高^明", "Li^Na"]))
    assert found == []


def test_a_name_that_names_nobody_costs_no_row() -> None:
    held = names(PatientName="Anonymous^Patient", OtherPatientNames="Test", InstitutionName="")
    assert tags_in(["The patient is an anonymous woman, test done."], held) == []


@pytest.mark.parametrize("text", ["MRN 123456", "0123456", "00123456", "no. 12-34-56", "12 3456 seen"])
def test_a_long_number_is_found_however_it_is_written(text: str) -> None:
    assert tags_in([text], names(PatientID="00123456")) == ["PatientID"]
    assert tags_in(["1234567, 112.3456, 23456"], names(PatientID="00123456")) == []
