"""How well sentences about an earlier study are told, on sentences that were written before the rules were tried."""

from data_tools.convert.earlier import refers_to_earlier

REFER = (
    "Compared with prior, the right pleural effusion has increased.",
    "Interval increase in bibasilar atelectasis.",
    "The cardiac silhouette is unchanged from the previous radiograph.",
    "There has been no significant interval change.",
    "Stable postoperative appearance of the chest.",
    "The left-sided opacity has cleared since yesterday.",
    "A new right internal jugular line ends in the superior vena cava.",
    "Mild vascular congestion persists.",
    "As compared to the study of March 3, lung volumes are lower.",
    "Again noted is a calcified granuloma.",
    "The previously described nodule is not visualised.",
    "Slightly improved aeration of the left base.",
    "Heart size remains at the upper limit of normal.",
    "Findings are similar to the prior CT.",
    "The endotracheal tube has been removed.",
    "与前片比较，右肺上叶结节增大。",
    "右侧胸腔积液较前明显减少。",
    "余所见大致同前。",
    "与2019年5月3日片对比，病灶无明显变化。",
    "对比旧片，左肺下叶新见斑片影。",
    "肺炎治疗后复查，病灶基本吸收。",
    "原右肺中叶实变影已消失。",
    "左肺上叶仍可见纤维条索影。",
    "复查：双肺炎症较上次吸收好转。",
    "心影较老片增大。",
    "骨折术后复查，内固定位置良好。",
    "病变较前进展。",
    "右侧气胸与前相仿。",
    "双肺多发结节，变化不明显。",
    "胸腔引流管已拔除。",
)
DO_NOT = (
    "The lungs are clear.",
    "Status post prior median sternotomy.",
    "The heart is mildly enlarged.",
    "Increased interstitial markings at both bases.",
    "There is a healed fracture of the left sixth rib.",
    "The left hemidiaphragm is elevated compared to the right.",
    "Recommend follow-up CT in three months.",
    "Old granulomatous disease.",
    "No pneumothorax or pleural effusion.",
    "Decreased lung volumes with crowding of the vessels.",
    "Chronic obstructive changes.",
    "Previous cholecystectomy clips are seen in the upper abdomen.",
    "Surgical clips from prior surgery.",
    "Degenerative changes of the thoracic spine.",
    "The newborn's thymus is prominent.",
    "双肺纹理增多、紊乱。",
    "建议3个月后复查。",
    "心影增大，主动脉结突出。",
    "右侧第4前肋骨折。",
    "左肺上叶前段见结节影。",
    "原发性肺癌可能，建议增强CT检查。",
    "新生儿肺炎。",
    "双侧肋膈角变钝。",
    "胸椎退行性变化。",
    "前列腺增生。",
    "建议治疗后复查胸片。",
    "右肺透亮度较左侧增高。",
    "考虑新型冠状病毒肺炎。",
    "病变原因待查，请结合临床。",
    "纵隔居中，未见肿大淋巴结。",
)


def test_most_of_both_kinds_are_told_apart() -> None:
    found = [sentence for sentence in REFER if refers_to_earlier(sentence)]
    wrong = [sentence for sentence in DO_NOT if refers_to_earlier(sentence)]
    assert len(set(REFER)) == len(set(DO_NOT)) == 30
    assert wrong == []
    assert [sentence for sentence in REFER if sentence not in found] == []
